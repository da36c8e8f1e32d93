# SPDX-License-Identifier: MIT
"""Who links to which table, as data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

__all__ = [
    "LEVELS",
    "PMDS",
    "PTES",
    "PUDS",
    "Domain",
    "Entry",
    "Guest",
    "Picture",
    "Process",
    "Shared",
    "Table",
    "leading_to_links",
    "rights",
    "span",
    "with_ptes",
]

#: Tables by what stands in them, the last level first.
LEVELS = ("pte", "pmd", "pud", "p4d")
PTES, PMDS, PUDS = range(3)


def span(level: int) -> int:
    """Bytes that one table of a level maps."""
    return 4096 << 9 * (level + 1)


def rights(bits: int) -> str:
    """Rights as people write them: 1 is read, 2 is write, 4 is execute, as in PROT_*."""
    return "".join(letter if bits & 1 << n else "-" for n, letter in enumerate("rwx"))


class Table(NamedTuple):
    """A table of a host.

    :param start: offset in the file from which on it maps
    :param key: where it is: the kernel's is its address in memory, the model's a made-up name
    :param links: how many entries of guests lead to it
    """

    level: int
    start: int
    key: str
    links: int = 0


class Entry(NamedTuple):
    """An entry of a process's tables, by the table that it leads to.

    :param start: address from which on that table maps
    :param key: where it is
    :param domain: number of the domain whose host has it: a link; ``None``: it is the process's own
    """

    level: int
    start: int
    key: str
    domain: int | None = None


class Guest(NamedTuple):
    """A mapping with MAP_SHARED_PT: where it is, and what of the domain's file it maps."""

    start: int
    end: int
    offset: int
    domain: int


@dataclass
class Domain:
    """The tables that the guests of one file and access class share.

    :param file: what the file is called
    :param asked: protection asked for, such as ``rw-``
    :param may: what the file as it was opened would allow
    :param mdwe: the guests have set PR_SET_MDWE
    """

    number: int
    file: str
    asked: str
    may: str
    mdwe: bool = False
    tables: list[Table] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Such as ``data rw- of rwx``."""
        return f"{self.file} {self.asked} of {self.may}" + (" mdwe" if self.mdwe else "")


@dataclass
class Process:
    """A process.

    :param pid: 0 where there is none
    :param entries: the tables above its guests, and the links; by address, the upper ones first
    """

    name: str
    pid: int = 0
    guests: list[Guest] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def links(self) -> Iterator[Entry]:
        """Those entries that lead to a host's table."""
        return (entry for entry in self.entries if entry.domain is not None)

    def sort(self) -> None:
        """Entries once each, in their order."""
        self.entries = sorted(set(self.entries), key=lambda entry: (entry.start, -entry.level, entry.key))


class Shared(NamedTuple):
    """A table and the processes that link to it."""

    domain: Domain
    table: Table
    processes: tuple[str, ...]


@dataclass
class Picture:
    """All of it.

    :param addresses: keys are addresses in memory, as the kernel has them
    """

    domains: list[Domain] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    addresses: bool = False

    def domain(self, number: int) -> Domain:
        """The domain with a number."""
        return next(domain for domain in self.domains if domain.number == number)

    def of(self, pids: Iterable[int]) -> "Picture":
        """What there is of some processes: they, and the domains where they are guests."""
        wanted = set(pids)
        processes = [process for process in self.processes if process.pid in wanted]
        numbers = {guest.domain for process in processes for guest in process.guests}
        domains = [domain for domain in self.domains if domain.number in numbers]
        return Picture(domains, processes, self.addresses)

    def shared(self) -> list[Shared]:
        """The hosts' tables that are linked, with those who link to them, found by where the tables are."""
        by_key: dict[tuple[int, str], dict[str, None]] = {}
        for process in self.processes:
            for entry in process.links():
                assert entry.domain is not None
                by_key.setdefault((entry.domain, entry.key), {})[process.name] = None
        return [
            Shared(domain, table, tuple(by_key[domain.number, table.key]))
            for domain in self.domains
            for table in domain.tables
            if (domain.number, table.key) in by_key
        ]

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "domains": [
                {
                    **{name: value for name, value in asdict(domain).items() if name != "tables"},
                    "tables": [_named(table._asdict()) for table in domain.tables],
                }
                for domain in self.domains
            ],
            "processes": [
                {
                    "name": process.name,
                    "pid": process.pid,
                    "guests": [guest._asdict() for guest in process.guests],
                    "entries": [_named(entry._asdict()) for entry in process.entries],
                }
                for process in self.processes
            ],
        }


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "level": LEVELS[values["level"]]}


def leading_to_links(entries: Sequence[Entry]) -> list[Entry]:
    """Own tables by which no link is reached are left out: they say nothing of sharing, and the kernel keeps
    some that it may need again."""
    above = {
        (level, entry.start // span(level))
        for entry in entries
        if entry.domain is not None
        for level in range(entry.level + 1, len(LEVELS))
    }
    return [
        entry
        for entry in entries
        if entry.domain is not None or (entry.level, entry.start // span(entry.level)) in above
    ]


def with_ptes(tables: Sequence[Table]) -> list[Table]:
    """A host's tables but for those below which there is no table of PTEs: the kernel makes them before it
    finds that there is no page to be had, and keeps them.
    """
    kept = {
        (level, table.start // span(level))
        for table in tables
        if table.level == PTES
        for level in (PTES, PMDS, PUDS)
    }
    return [table for table in tables if (table.level, table.start // span(table.level)) in kept]
