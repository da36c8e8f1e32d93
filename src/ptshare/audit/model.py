# SPDX-License-Identifier: MIT
"""What an audit finds: a host, its processes, and the objects that they have mapped.

Counts of tables are counts of page-table pages of the last level (PTE), if nothing else is said. Such a page
maps a granule: 2 MiB on x86-64 with pages of 4 KiB.
"""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "Audit",
    "Host",
    "Kind",
    "MappedObject",
    "Process",
    "Unread",
]

#: What an object is. ``private``: all memory of processes that no file is behind.
Kind = Literal["file", "tmpfs", "memfd", "anonymous", "sysv", "hugetlb", "device", "private"]

#: Processes that are named where many were not read.
_EXAMPLES = 3
#: Kinds whose pages can be huge, so that they need no table of the last level.
_CAN_BE_HUGE = {"tmpfs", "memfd", "anonymous", "sysv"}


@dataclass(slots=True)
class MappedObject:
    """Something that processes have mapped.

    :param device: of the file, "major:minor"; empty for ``private``
    :param inode: of the file; 0 for ``private``
    :param name: as /proc/PID/maps has it
    :param filesystem: type, as "ext4"; empty: the kernel's own, or of another mount namespace
    :param shared: mapped MAP_SHARED; a file mapped both ways is two objects
    :param size: bytes from the first to the last that any mapping covers
    :param mappers: processes that have it mapped
    :param tables: page-table pages that they spend on it, in all, each its own
    :param linked: granules that processes reach through shared tables (MAP_SHARED_PT), in all
    :param needed: distinct granules in ``tables``, for each right (read, write, execute) apart: with shared
        tables there would be as many
    :param linked_needed: the same of ``linked``: shared tables that there are
    :param estimated: of the mappers, those whose tables were not looked at one by one, but reckoned from
        VmPTE
    :param aligned: all its mappings begin at a multiple of the granule in the file
    :param commands: name of a process -> how many of that name have it mapped, and their tables
    """

    device: str
    inode: int
    name: str
    kind: Kind
    filesystem: str = ""
    shared: bool = True
    size: int = 0
    mappers: int = 0
    tables: int = 0
    linked: int = 0
    needed: int = 0
    linked_needed: int = 0
    aligned: bool = True
    estimated: int = 0
    commands: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def duplicate(self) -> int:
        """Tables beyond one for each granule and right."""
        return max(0, self.tables - self.needed) if self.shared else 0

    def obstacle(self, granule: int) -> str | None:
        """Why its tables cannot be shared by MAP_SHARED_PT; ``None``: they can."""
        if self.kind == "private":
            return "private"
        if self.kind == "hugetlb":
            return "huge pages"
        if self.kind == "device":
            return "device"
        if not self.shared:
            return "private mapping"
        if self.size < granule:
            return "size"
        if not self.aligned:
            return "alignment"
        return None

    def saved_by_sharing(self, granule: int) -> int:
        """Tables that MAP_SHARED_PT would save."""
        return 0 if self.obstacle(granule) else self.duplicate

    @property
    def saved_by_huge_pages(self) -> int:
        """Tables that pages of a granule's size would save, were all of its pages huge. 0 for files on disks,
        for which nobody can ask for them; and for private memory, where the kernel keeps a table in store for
        each transparent huge page.
        """
        return self.tables if self.shared and self.kind in _CAN_BE_HUGE else 0

    @property
    def saved_now(self) -> int:
        """Tables that shared tables save already."""
        return max(0, self.linked - self.linked_needed)


@dataclass(slots=True)
class Process:
    """A process with memory of its own.

    :param command: its name, at most 15 bytes
    :param user: name or number
    :param vm_pte: VmPTE, bytes of all its page tables but the top level
    :param tables: of these, page-table pages that are attributed to objects
    :param shared_pt: VmSharedPT, bytes that it maps through shared tables; ``None``: the kernel has
        no such line
    :param read: its mappings could be read
    """

    pid: int
    command: str
    user: str
    vm_pte: int
    tables: int = 0
    shared_pt: int | None = None
    read: bool = True

    def unattributed(self, page: int) -> int:
        """Bytes of its tables that no object is known for: upper levels, and what is small."""
        return max(0, self.vm_pte - self.tables * page)


@dataclass(slots=True)
class Unread:
    """Processes that were not read, for one reason.

    :param reason: in words
    :param count: how many
    :param examples: a few of them, "PID (command)"
    """

    reason: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, pid: int, command: str) -> None:
        """One more.

        :param command: its name; empty: unknown
        """
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{pid} ({command})" if command else str(pid))


@dataclass(slots=True)
class Host:
    """The machine.

    :param time: of the audit, seconds since 1970
    :param seconds: that it took
    :param page: bytes of a page
    :param granule: bytes that a table of the last level maps
    :param memory: MemTotal, bytes
    :param page_tables: PageTables of /proc/meminfo, bytes; of all processes and of the kernel itself
    :param counted: page-table pages that the kernel has marked so (KPF_PGTABLE), bytes; ``None``: not counted
    :param top_level: bytes of the tables of the top level, one a process, where the kernel counts them in
        PageTables; 0: it does not
    :param shared_tables: page-table pages, of all levels, that domains of MAP_SHARED_PT hold; ``None``: the
        kernel does not have it
    :param huge_unknown: this kernel does not tell huge pages apart, and some are mapped
    :param method: how mappings and populated granules were found, in words
    :param partial: why part of the host could not be read; empty: all was
    """

    name: str
    kernel: str
    time: float
    seconds: float
    page: int
    granule: int
    memory: int
    page_tables: int
    counted: int | None
    top_level: int
    shared_tables: int | None
    huge_unknown: bool
    method: str
    partial: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Audit:
    """A whole audit.

    :param scope: what was asked for, in words; empty: the whole host
    :param vanished: processes that ended meanwhile
    """

    host: Host
    processes: list[Process]
    objects: list[MappedObject]
    unread: list[Unread]
    scope: str = ""
    vanished: Unread = field(default_factory=lambda: Unread("ended meanwhile"))

    @property
    def vm_pte(self) -> int:
        """Bytes of the page tables of all processes in it, but for the top level."""
        return sum(process.vm_pte for process in self.processes)

    @property
    def explained(self) -> int:
        """Bytes of the host's page tables that are known to be of a process, or shared by some."""
        shared = (self.host.shared_tables or 0) * self.host.page
        return min(self.host.page_tables, self.vm_pte + self.host.top_level + shared)

    @property
    def attributed(self) -> int:
        """Bytes of tables that objects are known for."""
        return sum(item.tables for item in self.objects) * self.host.page

    @property
    def duplicate(self) -> int:
        """Bytes of tables that there would be once, were all that can be shared."""
        return sum(item.saved_by_sharing(self.host.granule) for item in self.objects) * self.host.page

    @property
    def saved_now(self) -> int:
        """Bytes of tables that sharing saves already."""
        return sum(item.saved_now for item in self.objects) * self.host.page

    def by_saving(self) -> list[MappedObject]:
        """The objects, those first of which most can be saved, then those with most tables."""
        granule = self.host.granule
        return sorted(
            self.objects,
            key=lambda item: (-item.saved_by_sharing(granule), -item.tables - item.linked, item.name),
        )
