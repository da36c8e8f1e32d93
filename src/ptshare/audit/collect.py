# SPDX-License-Identifier: MIT
"""Puts an audit together from what the kernel tells of each process."""

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ptshare import abi
from ptshare.audit import host, ioctls, proc
from ptshare.audit.estimate import Estimates
from ptshare.audit.model import Audit, MappedObject, Process, Unread
from ptshare.audit.objects import classify
from ptshare.audit.proc import FormatError, Status, Vma

__all__ = ["Scope", "collect"]

#: Bytes of a process's tables that no shared object is known for, from which on its private mappings are
#: read, too: a small process has less.
_UNATTRIBUTED = 256 << 10
#: Larger private mappings are not looked at by reading pagemap, which takes a second for each TiB.
_READ_BYTES = 256 << 30


@dataclass(frozen=True)
class Scope:
    """Which processes are asked for; those that are in all that is given. Nothing given: the whole host.

    :param pids: numbers
    :param uids: effective users, numbers
    :param cgroups: paths of control groups, with all below them
    :param commands: patterns, as fnmatch(3), of the name or of the first word of the command line
    """

    pids: Collection[int] = ()
    uids: Collection[int] = ()
    cgroups: Collection[str] = ()
    commands: Collection[str] = ()

    def __str__(self) -> str:
        parts = []
        for name, values in (
            ("pid", self.pids),
            ("uid", self.uids),
            ("cgroup", self.cgroups),
            ("command", self.commands),
        ):
            if values:
                parts.append(f"{name} {', '.join(map(str, values))}")
        return "; ".join(parts)


@dataclass(slots=True)
class _Tally:
    """An object, and which of its granules have been seen, by right."""

    item: MappedObject
    first: int
    end: int = 0
    last_pid: int = 0
    seen: dict[tuple[bool, ...], set[int]] = field(default_factory=dict)
    linked: dict[tuple[bool, ...], set[int]] = field(default_factory=dict)


def _text(name: str) -> str:
    r"""A name that can be written anywhere: bytes that are no UTF-8 become \xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class _Gone(Exception):
    """The process has ended."""


def collect(
    scope: Scope | None = None, root: str = "", count: bool | None = None, exact: bool = False
) -> Audit:
    """Audit this host.

    :param root: see :mod:`ptshare.audit.proc`
    :param count: count the page-table pages that the kernel has marked so, which looks at each page of the
        machine, and for which one must be root. ``None``: where it takes about a second at most
    :param exact: look at each table, also where there are so many that it takes minutes
    :raises OSError: there is no /proc
    :raises FormatError: it is not what is known of it
    """
    return _Collector(scope or Scope(), root, count, exact).audit()


class _Collector:
    def __init__(self, scope: Scope, root: str, count: bool | None, exact: bool) -> None:
        self._scope = scope
        self._root = root
        self._counted = not scope.pids and host.small(root) if count is None else count
        self._page = os.sysconf("SC_PAGESIZE")
        # A table of the last level has as many entries as fit into a page.
        self._granule = self._page // abi.PAGE_TABLE_ENTRY * self._page
        self._estimates = Estimates(exact)
        #: The kernel has the ioctls, as far as is known.
        self._query = self._scan = True
        self._names: dict[tuple[int, int, int], str] = {}
        self._users: dict[int, str] = {}
        self._filesystems = proc.filesystems(root)
        self._tallies: dict[tuple[int, int, int, bool], _Tally] = {}
        self._processes: list[Process] = []
        self._unread: dict[str, Unread] = {}
        self._vanished = Unread("ended meanwhile")
        #: Objects of which a mapping with shared tables has been seen.
        self._shared_pt: set[tuple[int, int, int]] = set()

    def audit(self) -> Audit:
        began, now = time.monotonic(), time.time()
        counting = host.Counting(self._root) if self._counted else None
        for status in self._candidates():
            self._take(status)
        method = ("PROCMAP_QUERY" if self._query else "maps", "PAGEMAP_SCAN" if self._scan else "pagemap")
        found = host.read(self._root, now, self._page, self._granule, ", ".join(method), not self._scan)
        if counting is not None:
            found.counted = counting.result()
        if not str(self._scope):
            found.top_level = host.top_level(found, self._processes)
        found.seconds = time.monotonic() - began
        objects = [self._finished(tally) for tally in self._tallies.values()]
        return Audit(
            found,
            self._processes,
            [item for item in objects if item.tables or item.linked],
            sorted(self._unread.values(), key=lambda unread: -unread.count),
            str(self._scope),
            self._vanished,
        )

    # Which processes

    def _candidates(self) -> Iterator[Status]:
        parents: dict[int, Status] = {}
        for pid in sorted(self._scope.pids) or proc.pids(self._root):
            try:
                status = proc.parse_status(proc.read_file(f"{self._root}/proc/{pid}/status"))
            except (FileNotFoundError, ProcessLookupError):
                self._vanished.add(pid, "")
                continue
            except (OSError, FormatError) as error:
                self._cannot_read(pid, "", error)
                continue
            if status is None or not self._asked_for(pid, status):
                continue
            parent = parents.get(status.ppid)
            parents[pid] = status
            if parent is None or not self._same_memory(pid, status, parent):
                yield status

    def _asked_for(self, pid: int, status: Status) -> bool:
        scope = self._scope
        if scope.uids and status.uid not in scope.uids:
            return False
        if scope.cgroups:
            data = self._try(f"{self._root}/proc/{pid}/cgroup")
            if not any(proc.in_cgroup(data, path) for path in scope.cgroups):
                return False
        if scope.commands:
            line = self._try(f"{self._root}/proc/{pid}/cmdline").split(b"\0")[0]
            names = {status.name, os.fsdecode(line), os.fsdecode(line.split(b" ")[0].rpartition(b"/")[2])}
            return any(fnmatchcase(name, pattern) for name in names for pattern in scope.commands)
        return True

    @staticmethod
    def _try(path: str) -> bytes:
        try:
            return proc.read_file(path)
        except OSError:
            return b""

    def _same_memory(self, pid: int, status: Status, parent: Status) -> bool:
        """It was made with CLONE_VM, as vfork(2) does it, and so has its parent's tables."""
        if self._root or status[4:] != parent[4:]:
            return False
        from ptshare import syscalls

        try:
            return syscalls.same_memory(pid, parent.tgid)
        except OSError:
            return False

    # One process

    def _take(self, status: Status) -> None:
        process = Process(
            status.tgid,
            _text(status.name),
            self._user(status.uid),
            status.vm_pte << 10,
            shared_pt=None if status.shared_pt is None else status.shared_pt << 10,
        )
        try:
            self._read(process)
        except _Gone:
            self._vanished.add(process.pid, process.command)
            return
        except (OSError, FormatError) as error:
            process.read = False
            self._cannot_read(process.pid, process.command, error)
        self._processes.append(process)

    def _user(self, uid: int) -> str:
        name = self._users.get(uid)
        if name is None:
            import pwd

            try:
                name = pwd.getpwuid(uid).pw_name
            except (KeyError, OverflowError):
                name = str(uid)
            self._users[uid] = name
        return name

    def _read(self, process: Process) -> None:
        directory = f"{self._root}/proc/{process.pid}"
        maps = pagemap = -1
        try:
            maps = os.open(f"{directory}/maps", os.O_RDONLY | os.O_CLOEXEC)
            vmas = self._shared_vmas(maps)
            if vmas:
                pagemap = os.open(f"{directory}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
                self._add_shared(process, vmas, pagemap)
            if process.vm_pte - process.tables * self._page > _UNATTRIBUTED:
                if pagemap < 0:
                    pagemap = os.open(f"{directory}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
                self._add_private(process, maps, pagemap)
        except (FileNotFoundError, ProcessLookupError):
            raise _Gone from None
        finally:
            for fd in (maps, pagemap):
                if fd >= 0:
                    os.close(fd)

    def _add_shared(self, process: Process, vmas: list[Vma], pagemap: int) -> None:
        largest = max(vmas, key=lambda vma: vma.end - vma.start)
        key = id(self._tally(process.pid, largest))
        others = self._estimates.others(key)
        if others is not None:
            self._add_estimated(process, vmas, largest, others, pagemap)
            return
        found = [(vma, self._with_tables(process.pid, vma, pagemap)) for vma in vmas]
        starts = self._starts_of_shared_tables(process, found)
        for vma, addresses in found:
            self._add(process, vma, addresses, linked=vma.start in starts)
            if vma is largest:
                own = 0 if vma.start in starts else len(addresses)
                self._estimates.learn(key, len(addresses), process.vm_pte // self._page - own)

    def _add_estimated(
        self, process: Process, vmas: list[Vma], largest: Vma, others: int, pagemap: int
    ) -> None:
        """As :meth:`_add_shared`, without a look at the largest mapping.

        :param others: tables that such a process has for other things
        """
        pt = [process.shared_pt and (vma.major, vma.minor, vma.inode) in self._shared_pt for vma in vmas]
        links = (process.shared_pt or 0) // self._granule
        for vma, linked in zip(vmas, pt, strict=True):
            if vma is not largest:
                addresses = self._with_tables(process.pid, vma, pagemap)
                self._add(process, vma, addresses, linked=bool(linked))
                links -= len(addresses) if linked else 0
        most = -(-largest.end // self._granule) - largest.start // self._granule
        linked = pt[vmas.index(largest)]
        count = links if linked else process.vm_pte // self._page - others
        tally = self._tally(process.pid, largest)
        tally.item.estimated += 1
        self._count(process, largest, tally, max(0, min(count, most)), bool(linked))

    def _shared_vmas(self, maps: int) -> list[Vma]:
        if self._query:
            try:
                return list(ioctls.shared_vmas(maps, self._names))
            except ioctls.NoIoctlError:
                self._query = False
        os.lseek(maps, 0, os.SEEK_SET)
        return list(proc.parse_maps(proc.read_fd(maps), shared_only=True))

    def _populated(self, pagemap: int, vma: Vma) -> Iterator[int]:
        if self._scan:
            try:
                yield from ioctls.populated(pagemap, vma.start, vma.end, self._granule)
                return
            except ioctls.NoIoctlError:
                self._scan = False
        # Address space that was set aside, by a sanitizer or a garbage collector say: 8 bytes a page would
        # be read.
        if vma.shared or vma.end - vma.start <= _READ_BYTES:
            yield from proc.populated_by_reading(pagemap, vma.start, vma.end, self._granule, self._page)

    def _with_tables(self, pid: int, vma: Vma, pagemap: int) -> list[int]:
        """An address in each granule of a mapping that has a table in use. Huge pages have none."""
        if self._tally(pid, vma).item.kind == "hugetlb":
            return []
        return list(self._populated(pagemap, vma))

    def _starts_of_shared_tables(self, process: Process, found: list[tuple[Vma, list[int]]]) -> set[int]:
        """Where the mappings begin that share their tables. Only smaps tells, and takes long. So it is
        assumed that those of a file do that did in other processes, if then VmSharedPT is what it would be.
        """
        if process.shared_pt is None or not any(addresses for _, addresses in found):
            return set()
        # Again, now that its tables have been read: it may have linked its first one meanwhile.
        status = proc.parse_status(proc.read_file(f"{self._root}/proc/{process.pid}/status"))
        if status is None or not status.shared_pt:
            return set()
        process.shared_pt = status.shared_pt << 10
        assumed = [
            (vma, addresses)
            for vma, addresses in found
            if (vma.major, vma.minor, vma.inode) in self._shared_pt
        ]
        if sum(len(addresses) for _, addresses in assumed) * self._granule == process.shared_pt:
            return {vma.start for vma, _ in assumed}
        starts = proc.shared_pt_starts(proc.read_file(f"{self._root}/proc/{process.pid}/smaps"))
        for vma, _ in found:
            if vma.start in starts:
                self._shared_pt.add((vma.major, vma.minor, vma.inode))
        return starts

    def _add(self, process: Process, vma: Vma, addresses: list[int], linked: bool) -> None:
        tally = self._tally(process.pid, vma)
        start, offset, granule = vma.start, vma.offset, self._granule
        seen = (tally.linked if linked else tally.seen).setdefault((vma.writable, vma.executable), set())
        seen.update((address - start + offset) // granule for address in addresses)
        self._count(process, vma, tally, len(addresses), linked)

    def _count(self, process: Process, vma: Vma, tally: _Tally, count: int, linked: bool) -> None:
        """So many tables of a process for a mapping."""
        item = tally.item
        if linked:
            item.linked += count
        else:
            # What VmPTE does not have cannot be: huge pages that this kernel does not tell apart, say.
            count = min(count, max(0, process.vm_pte // self._page - process.tables))
            item.tables += count
            process.tables += count
        if vma.offset % self._granule:
            item.aligned = False
        tally.first = min(tally.first, vma.offset)
        tally.end = max(tally.end, vma.offset + vma.end - vma.start)
        mappers, before = item.commands.get(process.command, (0, 0))
        if tally.last_pid != process.pid:
            tally.last_pid = process.pid
            mappers += 1
            item.mappers += 1
        item.commands[process.command] = (mappers, before + (0 if linked else count))

    def _add_private(self, process: Process, maps: int, pagemap: int) -> None:
        """Large private mappings: smaller ones have no table that is theirs alone."""
        os.lseek(maps, 0, os.SEEK_SET)
        for vma in proc.parse_maps(proc.read_fd(maps)):
            if not vma.shared and vma.end - vma.start >= self._granule and vma.name != "[vsyscall]":
                self._add(process, vma, self._with_tables(process.pid, vma, pagemap), linked=False)

    def _tally(self, pid: int, vma: Vma) -> _Tally:
        private = not vma.shared and not vma.inode
        if private:
            key = (0, 0, 0, False)
        else:  # files of huge pages of several sizes are on devices that the kernel numbers alike
            huge = vma.page if vma.page > self._page else 0
            key = (os.makedev(vma.major, vma.minor), vma.inode, huge, vma.shared)
        tally = self._tallies.get(key)
        if tally is None:
            item = self._new_object(pid, vma, private)
            tally = self._tallies[key] = _Tally(item, vma.offset)
        return tally

    def _new_object(self, pid: int, vma: Vma, private: bool) -> MappedObject:
        if private:
            return MappedObject("", 0, "private memory", "private", shared=False)
        device = f"{vma.major}:{vma.minor}"
        if device not in self._filesystems:
            # Of another mount namespace, perhaps.
            self._filesystems = {**proc.filesystems(self._root, pid), **self._filesystems}
            self._filesystems.setdefault(device, "")
        filesystem = self._filesystems[device]
        kind = classify(vma, filesystem, self._page)
        return MappedObject(device, vma.inode, _text(vma.name), kind, filesystem, vma.shared)

    def _finished(self, tally: _Tally) -> MappedObject:
        item = tally.item
        item.size = tally.end - tally.first
        item.needed = min(item.tables, sum(map(len, tally.seen.values())))
        item.linked_needed = sum(map(len, tally.linked.values()))
        return item

    def _cannot_read(self, pid: int, command: str, error: Exception) -> None:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        self._unread.setdefault(reason, Unread(reason)).add(pid, command)
