# SPDX-License-Identifier: MIT
"""Page tables: a tree of tables, each of 512 entries, with links from one tree into another.

A table is a :class:`Table`, or :class:`Full`: a table all of whose pages are there, one frame after the
other with the same flags, down to the last level. That is the same tree, kept as two numbers: so the tables
of 300 GiB cost no more than those of a few pages. A part that changes is written out.

Entries and tables go apart, as in the kernel: :meth:`Tree.clear` empties entries, and what :meth:`Tree.free`
frees is tables in which nothing is mapped any more.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ptshare.spec.entries import ENTRIES, PGD, PMD, PTE, PUD, entry, index, span

__all__ = ["Counts", "Full", "Link", "Table", "Translation", "Tree"]


class Counts(NamedTuple):
    """Tables of each level."""

    pte: int = 0
    pmd: int = 0
    pud: int = 0

    @property
    def all(self) -> int:
        """Of all levels but the PGD, which VmPTE does not count either."""
        return self.pte + self.pmd + self.pud

    def plus(self, other: "Counts", times: int = 1) -> "Counts":
        """Both together."""
        return Counts(*(mine + times * its for mine, its in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Full:
    """A table, and all below it, with every page present, or with none.

    :param level: of the table
    :param frame: of its first page; the others follow
    :param flags: of every last entry; 0: all of them are empty
    """

    level: int
    frame: int
    flags: int

    def child(self, at: int) -> "Full | int | None":
        """What its entry ``at`` points to: a table, or the value of a last entry."""
        if self.level == PTE:
            return entry(self.frame + at, self.flags) if self.flags else None
        return Full(self.level - 1, self.frame + at * ENTRIES**self.level, self.flags)

    def counts(self) -> Counts:
        """Itself and all below."""
        return Counts(*(ENTRIES ** (self.level - level) if level <= self.level else 0 for level in range(3)))


@dataclass
class Table:
    """A table that is written out.

    :param level: of the table
    :param entries: those that are not empty: values at the last level, else a table or a link
    """

    level: int
    entries: dict[int, "int | Table | Full | Link"] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """An entry that points to a table of another tree: that of a domain's host.

    :param host: the tree
    :param address: where in the host the table's memory begins
    """

    host: "Tree"
    address: int


class Translation(NamedTuple):
    """Where the hardware comes to for an address.

    :param value: of the last entry
    :param shared: it went through a link
    """

    value: int
    shared: bool


class Tree:
    """The page tables of an mm."""

    def __init__(self) -> None:
        self.root = Table(PGD)

    def walk(self, address: int) -> Translation | None:
        """What the hardware finds for an address; ``None``: nothing is present."""
        node: int | Table | Full | Link | None = self.root
        shared = False
        for level in (PGD, PUD, PMD, PTE):
            if isinstance(node, Link):
                # From here on it is the host's table, and the host's addresses.
                return node.host._below(node.address + address % span(level + 1), level)
            node = _child(node, index(address, level))
            if node is None:
                return None
        assert isinstance(node, int)
        return Translation(node, shared)

    def _below(self, address: int, level: int) -> Translation | None:
        """From its own table of a level on, as who has linked it."""
        node: int | Table | Full | Link | None = self.table(address, level)
        for lower in range(level, -1, -1):
            node = _child(node, index(address, lower))
            if node is None:
                return None
        assert isinstance(node, int)
        return Translation(node, True)

    def table(self, address: int, level: int) -> "Table | Full | Link | None":
        """The table of a level that an address is in, or the link by which it is another's."""
        node: Table | Full | Link | None = self.root
        for above in range(PGD, level, -1):
            if isinstance(node, Link):
                return node
            below = _child(node, index(address, above))
            assert not isinstance(below, int)
            node = below
        return node

    def set(self, address: int, value: int) -> None:
        """Write a last entry; tables that are missing are made."""
        self._writable(address, PTE).entries[index(address, PTE)] = value

    def fill(self, address: int, level: int, frame: int, flags: int) -> None:
        """Have a whole aligned table of a level present, in one go."""
        above = self._writable(address, level + 1)
        above.entries[index(address, level + 1)] = Full(level, frame, flags)

    def link(self, address: int, level: int, host: "Tree", at: int) -> None:
        """Point the entry above a table of a level to the host's table.

        :param at: where in the host the table's memory begins
        """
        self._writable(address, level + 1).entries[index(address, level + 1)] = Link(host, at)

    def linked(self, address: int) -> "tuple[int, Link] | None":
        """The level of the linked table that an address is in, and the link."""
        for level in (PMD, PTE):
            node = self.table(address, level)
            if isinstance(node, Link):
                return level, node
        return None

    def make(self, address: int, level: int) -> None:
        """Have the table of a level that an address is in, as a fault does before it looks for the page."""
        if self.table(address, level) is None:
            self._writable(address, level)

    def clear(self, start: int, end: int) -> None:
        """Empty the last entries of a range, and drop the links that lie in it as a whole. Tables stay."""
        self._clear(self.root, 0, start, end)

    def _clear(self, table: Table, base: int, start: int, end: int) -> None:
        size = span(table.level)
        for at in _places(table, base, start, end):
            first = base + at * size
            node = table.entries[at]
            if start <= first and first + size <= end and not isinstance(node, Table):
                if isinstance(node, Full):
                    table.entries[at] = Full(node.level, 0, 0)
                else:
                    del table.entries[at]
            elif isinstance(node, Full):
                node = table.entries[at] = _written_out(node)
                self._clear(node, first, start, end)
            elif isinstance(node, Table):
                self._clear(node, first, start, end)
            else:
                raise AssertionError("a part of a link cannot be cleared")

    def free(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """Free the tables of a range that was unmapped, if all that they stand for lies between what is still
        mapped below and above."""
        self._free(self.root, 0, (start, end), (floor, ceiling))

    def _free(self, table: Table, base: int, unmapped: tuple[int, int], room: tuple[int, int]) -> None:
        size = span(table.level)
        for at in _places(table, base, *unmapped):
            first = base + at * size
            node = table.entries[at]
            if not isinstance(node, (Table, Full)):
                continue
            if room[0] <= first and first + size <= room[1]:
                del table.entries[at]
            elif node.level > PTE:
                if isinstance(node, Full):
                    node = table.entries[at] = _written_out(node)
                self._free(node, first, unmapped, room)

    def pages(self, start: int = 0, end: int = span(PGD) * ENTRIES) -> Iterator[tuple[int, int]]:
        """Address and value of each last entry of its own in a range."""
        yield from _pages(self.root, 0, start, end)

    def links(self) -> Iterator[tuple[int, int, Link]]:
        """Address, level of the linked table, and link, of all of its links."""
        yield from _links(self.root, 0)

    def tables(self) -> Iterator[tuple[int, int]]:
        """Address and level of each table of its own, but for the root."""
        yield from _tables(self.root, 0)

    def counts(self) -> Counts:
        """Tables of its own; what is linked is another's."""
        return _counts(self.root)

    def _writable(self, address: int, level: int) -> Table:
        """The table of a level that an address is in, written out, made if it is missing."""
        node = self.root
        for above in range(PGD, level, -1):
            at = index(address, above)
            below = node.entries.get(at)
            if below is None:
                below = Table(above - 1)
            elif isinstance(below, Full):
                below = _written_out(below)
            assert isinstance(below, Table), "what is linked is not written to"
            node.entries[at] = below
            node = below
        return node


def _child(node: "int | Table | Full | Link | None", at: int) -> "int | Table | Full | Link | None":
    if isinstance(node, Table):
        return node.entries.get(at)
    return node.child(at) if isinstance(node, Full) else None


def _places(table: Table, base: int, start: int, end: int) -> list[int]:
    """Which entries of a table there are in a range."""
    size = span(table.level)
    low, high = max(0, (start - base) // size), min(ENTRIES - 1, (end - 1 - base) // size)
    if high - low < len(table.entries):
        return [at for at in range(low, high + 1) if at in table.entries]
    return [at for at in table.entries if low <= at <= high]


def _written_out(full: Full) -> Table:
    entries = ((at, full.child(at)) for at in range(ENTRIES))
    return Table(full.level, {at: below for at, below in entries if below is not None})


def _pages(node: "Table | Full", base: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    size = span(node.level)
    places = range(ENTRIES) if isinstance(node, Full) else sorted(node.entries)
    for at in places:
        first = base + at * size
        if first >= end or first + size <= start:
            continue
        below = _child(node, at)
        if isinstance(below, int):
            yield first, below
        elif isinstance(below, (Table, Full)):
            yield from _pages(below, first, start, end)


def _links(node: Table, base: int) -> Iterator[tuple[int, int, Link]]:
    for at, below in sorted(node.entries.items()):
        first = base + at * span(node.level)
        if isinstance(below, Link):
            yield first, node.level - 1, below
        elif isinstance(below, Table):
            yield from _links(below, first)


def _tables(node: "Table | Full", base: int) -> Iterator[tuple[int, int]]:
    for at in range(ENTRIES) if isinstance(node, Full) else sorted(node.entries):
        below = _child(node, at)
        if isinstance(below, (Table, Full)):
            first = base + at * span(node.level)
            yield first, below.level
            yield from _tables(below, first)


def _counts(node: Table) -> Counts:
    found = Counts()
    for below in node.entries.values():
        if isinstance(below, Full):
            found = found.plus(below.counts())
        elif isinstance(below, Table):
            own = Counts(*(int(below.level == level) for level in range(3)))
            found = found.plus(own).plus(_counts(below))
    return found
