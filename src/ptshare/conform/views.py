# SPDX-License-Identifier: MIT
"""What can be seen of the model, as far as a kernel has to show the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ptshare.spec import shows
from ptshare.spec.entries import PAGE, PMD, PTE, PUD, span
from ptshare.spec.files import File
from ptshare.spec.state import HOST_BASE, Process
from ptshare.spec.state import Mapping as Mapped
from ptshare.spec.system import System
from ptshare.spec.tables import Full, Link, Table, Tree

__all__ = ["Looks", "ProcessView", "View"]


class ProcessView(NamedTuple):
    """What can be seen of a process.

    :param maps: start, end, protection, offset, file
    :param present: start and end of runs of pages that have an entry
    :param own: least and most tables of its own
    :param shared: VmSharedPT, bytes
    """

    maps: list[list[int]]
    present: list[list[int]]
    own: tuple[int, int]
    shared: int


class View(NamedTuple):
    """What can be seen of all.

    :param domains: how many there are
    :param guests: least and most mappings: how a kernel cuts and joins them is its own business
    :param tables: least and most
    :param unsure: pages that may be gone from tables: the kernel was only advised
    """

    domains: int
    guests: tuple[int, int]
    tables: tuple[int, int]
    processes: dict[int, ProcessView]
    unsure: dict[int, set[int]]


@dataclass
class _Kept:
    """Tables that a tree has had. A kernel gives empty ones up when the memory around them is unmapped."""

    had: set[tuple[int, int]] = field(default_factory=set)

    def tried(self, start: int, end: int) -> None:
        """A kernel makes tables on the way to a page that there is not."""
        for level in (PTE, PMD, PUD):
            size = span(level + 1)
            self.had.update((at, level) for at in range(start // size * size, end, size))

    def range(self, tree: Tree) -> tuple[int, int]:
        """Least and most tables that there are."""
        now = set(tree.tables())
        self.had |= now
        return len(now), len(self.had)


class Looks:
    """Looks at the model after each step, and remembers what a kernel may still have from former ones."""

    def __init__(self, system: System, files: list[File], processes: Mapping[int, Process]) -> None:
        self._system, self._files, self._processes = system, files, processes
        self._kept: dict[int, _Kept] = {}
        self._unsure: dict[int, set[int]] = {}
        #: Mappings that the kernel may have cut in two for calls that it refused in the end.
        self.cuts = 0

    def doubted(self, process: Process, start: int, end: int) -> None:
        """The kernel may take these pages away, or not."""
        for mapping in process.within(start, end):
            pages = range(mapping.page(max(start, mapping.start)), mapping.page(min(end, mapping.end)))
            file = self._files.index(mapping.opened.file)
            self._unsure.setdefault(file, set()).update(pages)

    def tried(self, process: Process, start: int, end: int) -> None:
        """Pages of a range are asked for."""
        for mapping in process.within(start, end):
            low, high = max(start, mapping.start), min(end, mapping.end)
            self._kept_of(process.tables).tried(low, high)
            if mapping.domain is not None:
                to_host = HOST_BASE + mapping.offset - mapping.start
                self._kept_of(mapping.domain.tables).tried(low + to_host, high + to_host)

    def _kept_of(self, tree: Tree) -> _Kept:
        return self._kept.setdefault(id(tree), _Kept())

    def look(self) -> View:
        """How things stand."""
        system = self._system
        trees = {id(process.tables) for process in self._processes.values() if process.mappings}
        trees |= {id(domain.tables) for domain in system.domains}
        self._kept = {key: kept for key, kept in self._kept.items() if key in trees}
        tables = [self._range(domain.tables) for domain in system.domains]
        return View(
            len(system.domains),
            self._guests(),
            (sum(least for least, _ in tables), sum(most for _, most in tables)),
            {place: self._view_of(process) for place, process in self._processes.items()},
            {file: set(pages) for file, pages in self._unsure.items()},
        )

    def _range(self, tree: Tree) -> tuple[int, int]:
        return self._kept_of(tree).range(tree)

    def _guests(self) -> tuple[int, int]:
        """Mappings that continue each other may be one."""
        least = 0
        for process in self._processes.values():
            last: Mapped | None = None
            for mapping in process.mappings:
                if mapping.domain is not None and not (last and _continues(last, mapping)):
                    least += 1
                last = mapping
        return least, sum(domain.guests for domain in self._system.domains) + self.cuts

    def _view_of(self, process: Process) -> ProcessView:
        own = self._range(process.tables) if process.mappings else (0, 0)
        return ProcessView(
            [[*one[:4], self._files.index(one.file)] for one in shows.maps(process)],
            _runs(_present(process)),
            own,
            shows.vm_shared_pt(process),
        )


def _continues(one: Mapped, other: Mapped) -> bool:
    same = one.domain is other.domain and one.end == other.start
    return same and one.offset + one.length == other.offset


def _present(process: Process) -> Iterator[tuple[int, int]]:
    """Address and length of what has an entry, in no order."""
    for address, length in _filled(process.tables, 0, 1 << 48):
        yield address, length
    for address, level, link in process.tables.links():
        size = span(level + 1)
        for at, length in _filled(link.host, link.address, link.address + size):
            yield at - link.address + address, length


def _filled(tree: Tree, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Address and length of what has an entry of a tree's own; tables that are kept as one are one."""
    stack: list[tuple[Table | Full, int]] = [(tree.root, 0)]
    while stack:
        table, base = stack.pop()
        size = span(table.level)
        if isinstance(table, Full):
            low, high = max(start, base), min(end, base + size * 512)
            if low < high and table.flags:
                yield low, high - low
            continue
        for at, below in table.entries.items():
            first = base + at * size
            if first >= end or first + size <= start:
                continue
            if isinstance(below, int):
                yield first, PAGE
            elif not isinstance(below, Link):
                stack.append((below, first))


def _runs(parts: Iterator[tuple[int, int]]) -> list[list[int]]:
    found: list[list[int]] = []
    for address, length in sorted(parts):
        if found and found[-1][1] == address:
            found[-1][1] += length
        else:
            found.append([address, address + length])
    return found
