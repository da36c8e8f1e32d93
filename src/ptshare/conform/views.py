# SPDX-License-Identifier: MIT
"""What can be seen of the model, as far as a kernel has to show the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ptshare.spec import shows
from ptshare.spec.entries import GIB, GRANULE, PAGE, PMD, PTE, PUD, span
from ptshare.spec.faults import LINK_AROUND
from ptshare.spec.files import File
from ptshare.spec.state import HOST_BASE, Process
from ptshare.spec.state import Mapping as Mapped
from ptshare.spec.system import System
from ptshare.spec.tables import Full, Link, Table, Tree

__all__ = ["Either", "Looks", "ProcessView", "View"]


class ProcessView(NamedTuple):
    """What can be seen of a process.

    :param maps: start, end, protection, offset, file
    :param present: start and end of runs of pages that have an entry
    :param own: least and most tables of its own
    :param shared: VmSharedPT, bytes
    :param either: where granules begin that a kernel may have linked or not, those with a table in the host
    :param gibs: where GiBs begin that a kernel may have linked as a whole or not -> bytes that the model has
        linked of them
    """

    maps: list[list[int]]
    present: list[list[int]]
    own: tuple[int, int]
    shared: int
    either: dict[int, "Either"]
    gibs: dict[int, int]


class Either(NamedTuple):
    """A granule that a kernel may have linked or not.

    :param linked: the model has
    :param present: numbers of the pages that are there if it is
    """

    linked: bool
    present: set[int]


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


class _Choices(NamedTuple):
    """Where granules, and whole GiBs, begin that a kernel may have linked or not."""

    granules: set[int]
    gibs: set[int]


class Looks:
    """Looks at the model after each step, and remembers what a kernel may still have from former ones."""

    def __init__(self, system: System, files: list[File], processes: Mapping[int, Process]) -> None:
        self._system, self._files, self._processes = system, files, processes
        self._kept: dict[int, _Kept] = {}
        self._unsure: dict[int, set[int]] = {}
        #: Mappings that the kernel may have cut in two for calls that it refused in the end, and where.
        self.cuts = 0
        self._places: set[int] = set()
        self._either: dict[int, tuple[Process, _Choices]] = {}

    def cut(self, *places: int) -> None:
        """A call that was refused may have cut two mappings, each at one of these addresses if at all."""
        self.cuts += 2
        self._places.update(place for place in places if place % GRANULE == 0)

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
            {
                place: self._view_of(process, self._either_of(place))
                for place, process in self._processes.items()
            },
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

    def _either_of(self, place: int) -> _Choices:
        """What a fault links beside its own granule ends where the mapping ends, and so depends on where the
        kernel has cut mappings, and what it has joined. What it has linked so stays.
        """
        process, found = self._processes[place], _Choices(set(), set())
        former = self._either.get(place)
        if former and former[0] is process:
            found = former[1]
        chains = list(_chains(process))
        for gib in [
            at for at in found.gibs if not any(start <= at and at + GIB <= end for start, end, _ in chains)
        ]:
            # A part is gone, and the link of the whole with it; what is left is linked anew, by granules.
            found.gibs.discard(gib)
            found.granules.update(range(gib, gib + GIB, GRANULE))
        for start, end, inner in chains:
            for cut in inner | {at for at in self._places if start < at < end}:
                around = cut // LINK_AROUND * LINK_AROUND
                if around != cut:
                    found.granules.update(range(max(around, start), min(around + LINK_AROUND, end), GRANULE))
                gib = cut // GIB * GIB
                if gib != cut and start <= gib and gib + GIB <= end:
                    found.gibs.add(gib)
        gone = [at for at in found.granules if not ((mapping := process.at(at)) and mapping.domain)]
        found.granules.difference_update(gone)
        self._either[place] = process, found
        return found

    def _view_of(self, process: Process, choices: _Choices) -> ProcessView:
        own = self._range(process.tables) if process.mappings else (0, 0)
        return ProcessView(
            [[*one[:4], self._files.index(one.file)] for one in shows.maps(process)],
            _runs(_present(process)),
            own,
            shows.vm_shared_pt(process),
            dict(_either(process, choices)),
            {gib: _linked(process, gib) for gib in choices.gibs},
        )


def _continues(one: Mapped, other: Mapped) -> bool:
    same = one.domain is other.domain and one.end == other.start
    return same and one.offset + one.length == other.offset


def _either(process: Process, choices: _Choices) -> Iterator[tuple[int, Either]]:
    within = {at + n * GRANULE for at in choices.gibs for n in _tables_of_gib(process, at)}
    for at in choices.granules | within:
        host, place = _in_host(process, at)
        if host.table(place, PTE) is not None:
            filled = _filled(host, place, place + GRANULE)
            pages = {
                (at - place + first) // PAGE + n for first, length in filled for n in range(length // PAGE)
            }
            yield at, Either(process.tables.linked(at) is not None, pages)


def _in_host(process: Process, at: int) -> tuple[Tree, int]:
    mapping = process.at(at)
    assert mapping is not None
    host, place = mapping.place(at)
    assert host is not None
    return host, place


def _tables_of_gib(process: Process, at: int) -> list[int]:
    """Numbers of the granules of a GiB for which the host has a table."""
    host, place = _in_host(process, at)
    table = host.table(place, PMD)
    return list(table.entries) if isinstance(table, Table) else []


def _linked(process: Process, gib: int) -> int:
    """Bytes of a GiB that are linked."""
    links = process.tables.links()
    return sum(span(level + 1) for address, level, _ in links if gib <= address < gib + GIB)


def _chains(process: Process) -> Iterator[tuple[int, int, set[int]]]:
    """Start and end of guests that continue each other, and where one follows the other."""
    start, inner, last = 0, set[int](), None
    for mapping in [*process.mappings, None]:
        if last and mapping and _continues(last, mapping):
            inner.add(mapping.start)
        else:
            if last and last.domain is not None:
                yield start, last.end, inner
            start, inner = mapping.start if mapping else 0, set()
        last = mapping


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
