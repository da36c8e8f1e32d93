# SPDX-License-Identifier: MIT
"""The system of the contract: everything that can be done, in one place. docs/contract.md says in words what
stands here.

Each call returns an :class:`Outcome`. A call that is refused has changed nothing; where it goes over several
mappings, one after the other, then nothing of the one that refuses and of those after it.
"""

from dataclasses import replace

from ptshare.spec import address_space, advice, changes, locking, protection
from ptshare.spec.address_space import Request
from ptshare.spec.entries import ENTRIES, PGD, span
from ptshare.spec.faults import link_warm
from ptshare.spec.files import File, OpenFile
from ptshare.spec.mappings import add, remove
from ptshare.spec.state import (
    EXECUTE,
    HOST_BASE,
    NONE,
    READ,
    WRITE,
    AccessClass,
    Cpu,
    Domain,
    Mapping,
    Outcome,
    Process,
    State,
)
from ptshare.spec.tables import Counts

__all__ = [
    "EXECUTE",
    "HOST_BASE",
    "NONE",
    "READ",
    "WRITE",
    "AccessClass",
    "Cpu",
    "Domain",
    "Mapping",
    "Outcome",
    "Process",
    "System",
]


class System(State):
    """All of it, and the calls."""

    # Processes and files

    def file(self, name: str, size: int, kind: str = "page cache") -> File:
        """A new file."""
        made = File(name, size, self.memory, kind=kind)
        self.files.append(made)
        return made

    def process(self) -> Process:
        """A new process, with nothing mapped."""
        self.pids += 1
        made = self.processes[self.pids] = Process(self.pids)
        return made

    def fork(self, parent: Process) -> Process:
        """A child has its parent's mappings, but for those that advice keeps from it, and none of them is
        locked. It is a guest of the same domains. No tables are copied: what is not linked by whole GiBs is
        faulted in again.
        """
        child = self.process()
        child.mdwe, child.keys, child.memlock = parent.mdwe, set(parent.keys), parent.memlock
        for mapping in parent.mappings:
            if "DONTFORK" not in mapping.advice:
                inherited = replace(mapping, locked=False)
                add(child, inherited)
                link_warm(child, inherited)
        return child

    def exec(self, process: Process) -> Outcome:
        """execve(2) detaches: nothing is mapped any more. What it has denied itself stays so."""
        remove(self, process, 0, span(PGD) * ENTRIES)
        process.keys, process.locks_future = {0}, False
        return Outcome()

    def exit(self, process: Process) -> Outcome:
        """exit(2)"""
        self.exec(process)
        del self.processes[process.pid]
        for cpu in self.cpus:
            if cpu.runs is process:
                self.switch(cpu, None)
        return Outcome()

    def kill(self, process: Process) -> Outcome:
        """SIGKILL, at any moment: the same as exit, for all that others can see."""
        return self.exit(process)

    def set_mdwe(self, process: Process) -> Outcome:
        """PR_SET_MDWE of prctl(2): no memory that is writable and executable from now on. What is mapped
        stays where it is.
        """
        process.mdwe = True
        return Outcome()

    def switch(self, cpu: Cpu, process: Process | None) -> None:
        """A context switch. Translations of another process are of no use; the kernel keeps them by PCID, and
        drops them before they are used again if they were flushed meanwhile: so here none is kept.
        """
        cpu.runs = process
        cpu.tlb.clear()

    # Mappings

    def mmap(
        self,
        process: Process,
        start: int | None,
        length: int,
        prot: int,
        opened: OpenFile | None,
        offset: int = 0,
        shared_pt: bool = False,
        **more: bool | int,
    ) -> Outcome:
        """mmap(2): with MAP_SHARED_VALIDATE, with MAP_FIXED if there is a start, with MAP_SHARED_PT if
        ``shared_pt``.

        :param more: of :class:`ptshare.spec.address_space.Request`
        """
        request = Request(start, length, prot, opened, offset, shared_pt)
        return address_space.mmap(self, process, request._replace(**more))  # type: ignore[arg-type]

    def munmap(self, process: Process, start: int, length: int) -> Outcome:
        """munmap(2)"""
        return address_space.munmap(self, process, start, length)

    def mremap(
        self,
        process: Process,
        start: int,
        length: int,
        new_length: int,
        new_start: int | None = None,
        may_move: bool = True,
    ) -> Outcome:
        """mremap(2), with MREMAP_FIXED if there is a new address."""
        return address_space.mremap(self, process, start, length, new_length, new_start, may_move)

    def remap_file_pages(self, process: Process, start: int, length: int, page: int = 0) -> Outcome:
        """remap_file_pages(2)"""
        return address_space.remap_file_pages(self, process, start, length, page)

    def userfaultfd_register(self, process: Process, start: int, length: int) -> Outcome:
        """UFFDIO_REGISTER of userfaultfd(2)"""
        return advice.userfaultfd_register(process, start, length)

    # Protection

    def mprotect(self, process: Process, start: int, length: int, prot: int) -> Outcome:
        """mprotect(2)"""
        return protection.mprotect(self, process, start, length, prot)

    def pkey_mprotect(self, process: Process, start: int, length: int, prot: int, key: int) -> Outcome:
        """pkey_mprotect(2)"""
        return protection.mprotect(self, process, start, length, prot, key)

    def mseal(self, process: Process, start: int, length: int) -> Outcome:
        """mseal(2)"""
        return protection.mseal(self, process, start, length)

    # Advice and locking

    def madvise(self, process: Process, start: int, length: int, advised: str) -> Outcome:
        """madvise(2), of :data:`ptshare.spec.advice.ADVICE`."""
        return advice.madvise(self, process, start, length, advised)

    def mlock(self, process: Process, start: int, length: int) -> Outcome:
        """mlock(2)"""
        return locking.mlock(self, process, start, length)

    def munlock(self, process: Process, start: int, length: int) -> Outcome:
        """munlock(2)"""
        return locking.munlock(self, process, start, length)

    def mlockall(self, process: Process, current: bool = True, future: bool = False) -> Outcome:
        """mlockall(2) with MCL_CURRENT, MCL_FUTURE"""
        return locking.mlockall(self, process, current, future)

    def munlockall(self, process: Process) -> Outcome:
        """munlockall(2)"""
        return locking.munlockall(self, process)

    def msync(self, process: Process, start: int, length: int, invalidate: bool = False) -> Outcome:
        """msync(2), MS_SYNC"""
        return advice.msync(self, process, start, length, invalidate)

    def mincore(self, process: Process, start: int, length: int) -> Outcome:
        """mincore(2): the value has a bit for each page."""
        return advice.mincore(process, start, length)

    # Files and their pages

    def truncate(self, file: File, size: int) -> Outcome:
        """ftruncate(2)"""
        return changes.truncate(self, file, size)

    def punch(self, file: File, first: int, end: int) -> Outcome:
        """fallocate(2), FALLOC_FL_PUNCH_HOLE, of whole pages"""
        return changes.punch(self, file, first, end)

    def unlink(self, file: File) -> Outcome:
        """unlink(2)"""
        return changes.unlink(file)

    def seal(self, file: File, name: str) -> Outcome:
        """F_ADD_SEALS: "write", "future_write", "shrink" or "grow"."""
        return changes.seal(self, file, name)

    def fsync(self, file: File) -> int:
        """fsync(2): how many pages were written."""
        return changes.fsync(self, file)

    def reclaim(self, file: File, first: int, end: int) -> int:
        """Memory is short: how many pages stayed, since they are locked."""
        return changes.reclaim(self, file, first, end)

    def migrate(self, file: File, page: int) -> None:
        """A page moves to another frame."""
        changes.migrate(self, file, page)

    # What the kernel shows; more of it in ptshare.spec.shows

    def vm_pte(self, process: Process) -> Counts:
        """VmPTE: a process's own tables."""
        return process.tables.counts()

    def page_tables(self) -> Counts:
        """PageTables: all of the machine, each shared one once."""
        found = Counts()
        for process in self.processes.values():
            found = found.plus(process.tables.counts())
        return found.plus(self.shared_tables())

    def shared_tables(self) -> Counts:
        """/sys/kernel/mm/ptshare/tables"""
        found = Counts()
        for domain in self.domains:
            found = found.plus(domain.tables.counts())
        return found
