# SPDX-License-Identifier: MIT
"""What there is: processes, their mappings, CPUs, access classes and domains. No call stands here."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ptshare.spec.entries import GIB, PAGE, PGD, span
from ptshare.spec.files import File, Memory, OpenFile
from ptshare.spec.tables import Tree

__all__ = [
    "ADDRESSES",
    "EXECUTE",
    "HOST_BASE",
    "HOST_BYTES",
    "NONE",
    "READ",
    "WRITE",
    "AccessClass",
    "Cpu",
    "Domain",
    "Mapping",
    "Outcome",
    "Process",
    "State",
]

NONE, READ, WRITE, EXECUTE = 0, 1, 2, 4

#: Where in a host the file begins.
HOST_BASE = span(PGD)
#: Addresses of a process end here: the last page below 128 TiB is never mapped.
ADDRESSES = (1 << 47) - PAGE
#: What a host can map of a file: docs/contract.md, EOVERFLOW.
HOST_BYTES = (1 << 47) - GIB - HOST_BASE


class Outcome(NamedTuple):
    """What a caller sees.

    :param value: what the call returns; of an access what was read
    :param errno: 0, or why the call was refused
    :param signal: "SIGSEGV", "SIGBUS", or empty
    :param faults: page faults that it took
    """

    value: int = 0
    errno: int = 0
    signal: str = ""
    faults: int = 0


class AccessClass(NamedTuple):
    """What a mapping is allowed to be.

    :param asked: protection asked for when it was made
    :param may: all that the open file would let it have later
    :param mdwe: its guests have denied themselves memory that is writable and executable
    """

    asked: int
    may: int
    mdwe: bool = False


@dataclass(eq=False)
class Domain:
    """A set of shared page tables, and the guests that use it.

    :param tables: the host's, at :data:`HOST_BASE` + offset in the file
    :param protection: what pages have, where it is not what the class asked for
    :param guests: mappings
    """

    file: File
    access: AccessClass
    tables: Tree = field(default_factory=Tree)
    protection: dict[int, int] = field(default_factory=dict)
    guests: int = 0

    def protection_of(self, page: int) -> int:
        """The protection in force for a page of the file."""
        return self.protection.get(page, self.access.asked)


@dataclass(eq=False)
class Mapping:
    """A mapping of a process.

    :param offset: in the file, bytes
    :param prot: protection; of a guest what it asked for, which nobody asks later
    :param may: what the open file let it have when it was made
    :param domain: whose guest it is; ``None``: an ordinary one, with tables of the process's own
    :param locked: by mlock(2) and its relatives
    :param sealed: by mseal(2)
    :param advice: what of madvise(2) stays with it, such as "DONTFORK"
    :param key: of pkey_mprotect(2)
    """

    start: int
    length: int
    opened: OpenFile
    offset: int
    prot: int
    may: int
    domain: Domain | None = None
    locked: bool = False
    sealed: bool = False
    advice: frozenset[str] = frozenset()
    key: int = 0

    @property
    def end(self) -> int:
        """The address after its last byte."""
        return self.start + self.length

    @property
    def file(self) -> File:
        """The file that it maps."""
        return self.opened.file

    def page(self, address: int) -> int:
        """The page of the file at an address."""
        return (address - self.start + self.offset) // PAGE

    def address(self, page: int) -> int:
        """Where a page of the file is, or would be if the mapping reached so far."""
        return self.start + page * PAGE - self.offset

    def place(self, address: int) -> tuple[Tree | None, int]:
        """In which host's tables an address is, and where; ``None``: in the process's own."""
        if self.domain is None:
            return None, address
        return self.domain.tables, HOST_BASE + self.offset + address - self.start

    def protection_at(self, address: int) -> int:
        """The protection in force: of a guest the domain's, whatever it asked for."""
        return self.prot if self.domain is None else self.domain.protection_of(self.page(address))

    def part(self, start: int, end: int) -> "Mapping":
        """What of it lies between two addresses."""
        low, high = max(start, self.start), min(end, self.end)
        return replace(self, start=low, length=high - low, offset=self.offset + low - self.start)

    def moved(self, start: int, length: int) -> "Mapping":
        """The same from its begin on, elsewhere and of another length."""
        return replace(self, start=start, length=length)


@dataclass(eq=False)
class Process:
    """A process.

    :param mappings: in order of their addresses
    :param mdwe: PR_SET_MDWE of prctl(2)
    :param keys: protection keys that it has
    :param locks_future: MCL_FUTURE of mlockall(2)
    :param memlock: RLIMIT_MEMLOCK, bytes; ``None``: it has CAP_IPC_LOCK, and no limit counts
    """

    pid: int
    tables: Tree = field(default_factory=Tree)
    mappings: list[Mapping] = field(default_factory=list)
    mdwe: bool = False
    keys: set[int] = field(default_factory=lambda: {0})
    locks_future: bool = False
    memlock: int | None = None

    def at(self, address: int) -> Mapping | None:
        """The mapping that an address is in."""
        return next((one for one in self.mappings if one.start <= address < one.end), None)

    def within(self, start: int, end: int) -> list[Mapping]:
        """The mappings that a range touches."""
        return [one for one in self.mappings if one.start < end and start < one.end]

    def insert(self, mapping: Mapping) -> None:
        """One more."""
        self.mappings.append(mapping)
        self.mappings.sort(key=lambda one: one.start)

    def locked_bytes(self) -> int:
        """What counts against RLIMIT_MEMLOCK."""
        return sum(one.length for one in self.mappings if one.locked)

    def may_lock(self, more: int) -> bool:
        """Does the limit leave room for so many bytes more?"""
        return self.memlock is None or self.locked_bytes() + more <= self.memlock


@dataclass(eq=False)
class Cpu:
    """A CPU: who runs on it, and the translations that it holds: address of a page -> entry."""

    runs: Process | None = None
    tlb: dict[int, int] = field(default_factory=dict)


class State:
    """All that there is.

    :param cpus: how many CPUs
    :param supported: does the kernel have MAP_SHARED_PT?
    """

    def __init__(self, cpus: int = 4, supported: bool = True) -> None:
        self.memory = Memory()
        self.processes: dict[int, Process] = {}
        self.files: list[File] = []
        self.domains: list[Domain] = []
        self.cpus = [Cpu() for _ in range(cpus)]
        self.supported = supported
        #: /sys/kernel/mm/ptshare/enabled
        self.enabled = True
        self.pids = 0
