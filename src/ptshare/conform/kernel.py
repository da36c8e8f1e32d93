# SPDX-License-Identifier: MIT
"""Runs programs on the kernel, and tells what was seen after each step. Needs root.

It changes what the whole machine does (:meth:`Kernel.__enter__`), so it belongs into a guest of the lab.
"""

import fcntl
import mmap
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ptshare import abi, syscalls
from ptshare.conform import seen
from ptshare.conform.agents import Agent, AgentError, Agents, Reply, compiled
from ptshare.conform.calls import ADDRESS, AREA, FIRST, PROCESSES, Flag, Program, Step

__all__ = ["Kernel"]

# x86-64. arch/x86/entry/syscalls/syscall_64.tbl
_MMAP, _MPROTECT, _MUNMAP, _MREMAP, _MSYNC, _MADVISE = 9, 10, 11, 25, 26, 28
_MLOCK, _MUNLOCK, _PRCTL, _OPENAT, _PKEY_MPROTECT, _CLOSE_RANGE, _MSEAL = 149, 150, 157, 257, 329, 436, 462

_PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN = 65, 1

_ADVICE = {
    "NORMAL": 0,
    "RANDOM": 1,
    "SEQUENTIAL": 2,
    "WILLNEED": 3,
    "DONTNEED": 4,
    "REMOVE": 9,
    "DONTFORK": 10,
    "DOFORK": 11,
    "HUGEPAGE": 14,
    "NOHUGEPAGE": 15,
    "DONTDUMP": 16,
    "DODUMP": 17,
    "COLD": abi.MADV_COLD,
    "PAGEOUT": abi.MADV_PAGEOUT,
    "POPULATE_READ": abi.MADV_POPULATE_READ,
    "POPULATE_WRITE": abi.MADV_POPULATE_WRITE,
    "COLLAPSE": abi.MADV_COLLAPSE,
}

#: Fault-around maps pages that nobody asked for, khugepaged does so when it likes, and who writes to a page
#: after writeback faults.
_SETTINGS = {
    "/sys/kernel/debug/fault_around_bytes": "4096",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled": "never",
    "/proc/sys/vm/dirty_writeback_centisecs": "0",
}


class Kernel:
    """The kernel that runs, and processes on it. A context manager."""

    def __init__(self, programs: Path) -> None:
        self._stack = ExitStack()
        self._programs = programs
        self._files: list[int] = []
        #: Own tables of each place's process before it maps anything, pages.
        self._before: dict[int, int] = {}
        self._denied: set[int] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for path, value in _SETTINGS.items():
                if os.path.exists(path):
                    stack.callback(Path(path).write_text, _in_force(path))
                    Path(path).write_text(value)
            base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._directories = {
                "tmpfs": _mounted(stack, base / "tmpfs", "-t", "tmpfs", "tmpfs"),
                "noexec": _mounted(stack, base / "noexec", "-t", "tmpfs", "-o", "noexec", "tmpfs"),
                "ext4": _mounted(stack, base / "ext4", "-o", "loop", _image(base / "image")),
            }
            _write_back_on_request(self._directories["ext4"])
            self._agents = Agents(compiled(self._programs), PROCESSES)
            stack.callback(self._agents.close)
            for place in range(FIRST):
                self._begin(place)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_files()
        self._stack.close()

    def run(self, program: Program) -> dict[str, Any]:
        """Run a program with the processes that there are, and others in the place of those that have ended.

        :returns: "steps": what was seen after each of them; "page_tables": pages by which PageTables of
            /proc/meminfo grew, and by which VmPTE of all processes and the domains' tables did; "left":
            domains, guests and tables after the end of all mappings
        """
        try:
            self._open_files(program)
            for place in range(FIRST):
                self._count_before(place)
            before = seen.page_tables()
            steps = [self._step(step) for step in program.steps]
            grown = [now - then for now, then in zip(seen.page_tables(), before, strict=True)]
        finally:
            self._reset()
        return {"steps": steps, "page_tables": grown, "left": seen.sysfs()}

    # Processes and files

    def _begin(self, place: int) -> None:
        agent = self._agents.begin(place)
        os.sched_setaffinity(agent.pid, {place % (os.cpu_count() or 1)})

    def _count_before(self, place: int) -> None:
        self._before[place] = seen.tables(self._agents.places[place].pid)[0]

    def _reset(self) -> None:
        """All processes as at first, or new."""
        _write_switch(1)
        for place, agent in enumerate(self._agents.places):
            if agent.alive and (place >= FIRST or place in self._denied):
                agent.end(kill=True)
            if agent.alive:
                # What is sealed cannot be unmapped.
                if agent.syscall(_MUNMAP, ADDRESS, AREA).errno:
                    agent.end(kill=True)
                else:
                    agent.syscall(_CLOSE_RANGE, self._agents.above, 0x7FFFFFFF, 0)
                    agent.files = {}
            if not agent.alive and place < FIRST:
                self._begin(place)
        self._denied.clear()
        self._close_files()

    def _open_files(self, program: Program) -> None:
        for kind, size in program.files:
            if kind == "memfd":
                fd = os.memfd_create("conform", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
            else:
                number, path = tempfile.mkstemp(dir=self._directories[kind])
                fd = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
                os.close(number)
                os.chmod(path, 0o777)
            os.ftruncate(fd, size)
            self._files.append(fd)
        found = map(os.fstat, self._files)
        self._inodes = {(status.st_dev, status.st_ino): number for number, status in enumerate(found)}

    def _close_files(self) -> None:
        for fd in self._files:
            path = os.readlink(f"/proc/self/fd/{fd}")
            os.close(fd)
            if not path.startswith("/memfd:"):
                os.unlink(path)
        self._files = []

    def _open(self, agent: Agent, file: int, mode: str) -> int:
        """A descriptor of the agent's own, opened as asked."""
        fd = agent.files.get((file, mode))
        if fd is None:
            path = f"/proc/{os.getpid()}/fd/{self._files[file]}".encode() + b"\0"
            flags = os.O_RDWR if mode == "rw" else os.O_RDONLY
            answer = agent.syscall(_OPENAT, -100, agent.data, flags, 0, data=path)
            if answer.errno:
                raise AgentError(f"open {path!r} for {mode}: {os.strerror(answer.errno)}")
            fd = agent.files[file, mode] = answer.value
        return fd

    # Steps

    def _step(self, step: Step) -> dict[str, Any]:
        call: Callable[[Step], Reply] = getattr(self, f"_do_{step.call}")
        try:
            answer = call(step)
        except OSError as error:
            answer = Reply(-1, error.errno or 0, "", 0)
        return {"answer": list(answer), "sysfs": seen.sysfs(), "processes": self._processes()}

    def _agent(self, step: Step) -> Agent:
        return self._agents.places[step.process]

    def _do_mmap(self, step: Step) -> Reply:
        address, length, prot, _, _, offset, wanted = step.args
        agent = self._agent(step)
        assert isinstance(wanted, int)
        if wanted & Flag.NOREPLACE:
            # Which MAP_SHARED_VALIDATE takes for a flag that it does not know.
            flags = syscalls.MAP_FIXED_NOREPLACE | mmap.MAP_SHARED
        else:
            flags = syscalls.MAP_FIXED | abi.MAP_SHARED_VALIDATE
        flags |= abi.MAP_SHARED_PT if wanted & Flag.SHARED_PT else 0
        flags |= syscalls.MAP_LOCKED if wanted & Flag.LOCKED else 0
        fd = self._open(agent, step.number(3), step.text(4))
        return agent.syscall(_MMAP, *map(int, (address, length, prot, flags, fd, offset)))

    def _do_mmap_anywhere(self, step: Step) -> Reply:
        length, file, offset = map(int, step.args)
        agent = self._agent(step)
        fd = self._open(agent, file, "r")
        answer = agent.syscall(_MMAP, 0, length, 1, syscalls.SHARED_PT_VALIDATED, fd, offset)
        if answer.errno:
            return answer
        gone = agent.syscall(_MUNMAP, answer.value, length)
        if gone.errno:
            return gone
        unit = syscalls.GIB if length >= syscalls.GIB else syscalls.GRANULE
        return answer._replace(value=(answer.value - offset) % unit)

    def _plain(self, step: Step, number: int, *more: int) -> Reply:
        """A call whose arguments are the step's."""
        return self._agent(step).syscall(number, *map(int, step.args), *more)

    def _do_munmap(self, step: Step) -> Reply:
        return self._plain(step, _MUNMAP)

    def _do_mprotect(self, step: Step) -> Reply:
        return self._plain(step, _MPROTECT)

    def _do_pkey_mprotect(self, step: Step) -> Reply:
        return self._plain(step, _PKEY_MPROTECT)

    def _do_mremap(self, step: Step) -> Reply:
        address, length, new_length, new_address = map(int, step.args)
        # Without MREMAP_FIXED it must not move: where to is the kernel's business.
        flags = syscalls.MREMAP_MAYMOVE | syscalls.MREMAP_FIXED if new_address else 0
        return self._agent(step).syscall(_MREMAP, address, length, new_length, flags, new_address)

    def _do_madvise(self, step: Step) -> Reply:
        return self._agent(step).syscall(_MADVISE, step.number(0), step.number(1), _ADVICE[step.text(2)])

    def _do_mlock(self, step: Step) -> Reply:
        return self._plain(step, _MLOCK)

    def _do_munlock(self, step: Step) -> Reply:
        return self._plain(step, _MUNLOCK)

    def _do_msync(self, step: Step) -> Reply:
        return self._plain(step, _MSYNC, 4)  # MS_SYNC

    def _do_mseal(self, step: Step) -> Reply:
        return self._plain(step, _MSEAL, 0)

    def _do_load(self, step: Step) -> Reply:
        return self._agent(step).load(step.number(0))

    def _do_store(self, step: Step) -> Reply:
        return self._agent(step).store(step.number(0), step.number(1))

    def _do_fetch(self, step: Step) -> Reply:
        return self._agent(step).fetch(step.number(0))

    def _do_vm_read(self, step: Step) -> Reply:
        return Reply(syscalls.vm_readv(self._agent(step).pid, step.number(0), 1)[0], 0, "", 0)

    def _do_vm_write(self, step: Step) -> Reply:
        syscalls.vm_writev(self._agent(step).pid, step.number(0), bytes([step.number(1)]))
        return Reply(0, 0, "", 0)

    def _do_mem_write(self, step: Step) -> Reply:
        with open(f"/proc/{self._agent(step).pid}/mem", "r+b", buffering=0) as memory:
            os.pwrite(memory.fileno(), bytes([step.number(1)]), step.number(0))
        return Reply(0, 0, "", 0)

    def _do_fork(self, step: Step) -> Reply:
        place = step.number(0)
        child = self._agents.places[place]
        answer = self._agent(step).fork(child)
        if child.alive:
            os.sched_setaffinity(child.pid, {place % (os.cpu_count() or 1)})
            self._count_before(place)
            # What fork has linked by whole GiBs stands in one table: all of the programs' addresses have one.
            self._before[place] -= seen.tables(child.pid)[1] > 0
            if step.process in self._denied:
                self._denied.add(place)
        return answer._replace(value=0)

    def _do_exec(self, step: Step) -> Reply:
        answer = self._agent(step).exec()
        self._count_before(step.process)
        return answer

    def _do_exit(self, step: Step) -> Reply:
        self._agent(step).end(kill=False)
        return Reply(0, 0, "", 0)

    def _do_kill(self, step: Step) -> Reply:
        self._agent(step).end(kill=True)
        return Reply(0, 0, "", 0)

    def _do_stay_awake(self, step: Step) -> Reply:
        return self._agent(step).stay_awake(step.number(0))

    def _do_set_mdwe(self, step: Step) -> Reply:
        self._denied.add(step.process)
        return self._agent(step).syscall(_PRCTL, _PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)

    def _do_truncate(self, step: Step) -> Reply:
        os.ftruncate(self._files[step.number(0)], step.number(1))
        return Reply(0, 0, "", 0)

    def _do_punch(self, step: Step) -> Reply:
        file, offset, length = map(int, step.args)
        keep_size_and_punch = 3
        result = syscalls.libc.fallocate(
            self._files[file], keep_size_and_punch, syscalls.size_t(offset), syscalls.size_t(length)
        )
        syscalls.checked(result)
        return Reply(0, 0, "", 0)

    def _do_fsync(self, step: Step) -> Reply:
        os.fsync(self._files[step.number(0)])
        return Reply(0, 0, "", 0)

    def _do_seal(self, step: Step) -> Reply:
        add_seals, future_write = 1033, 0x10
        fcntl.fcntl(self._files[step.number(0)], add_seals, future_write)
        return Reply(0, 0, "", 0)

    def _do_enable(self, step: Step) -> Reply:
        _write_switch(step.number(0))
        return Reply(0, 0, "", 0)

    # What is seen

    def _processes(self) -> dict[str, Any]:
        return {
            str(place): self._process(place, agent.pid)
            for place, agent in enumerate(self._agents.places)
            if agent.alive
        }

    def _process(self, place: int, pid: int) -> dict[str, Any]:
        own, shared = seen.tables(pid)
        return {
            "maps": seen.maps(pid, self._inodes),
            "present": seen.present(pid),
            "own": own - self._before[place],
            "shared": shared,
        }


def _in_force(path: str) -> str:
    """What a file of settings says: of several words the one in brackets."""
    text = Path(path).read_text().strip()
    chosen = re.search(r"\[(\S+)\]", text)
    return chosen[1] if chosen else text


def _write_switch(value: int) -> None:
    Path(abi.SYSFS, "enabled").write_text(str(value))


def _image(path: Path) -> str:
    with path.open("wb") as file:
        # Of some GiB, as files are: nothing of it is there until it is written.
        file.truncate(4 << 30)
    # A journal writes back files of which nobody asked it.
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(path)], check=True)
    return str(path)


def _write_back_on_request(directory: Path) -> None:
    """A disk that is new has next to no share of what may be dirty, and is written to at once."""
    device = directory.stat().st_dev
    # Per cent; those of all disks must be less than 100.
    Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/min_ratio").write_text("50")


def _mounted(stack: ExitStack, directory: Path, *arguments: str) -> Path:
    directory.mkdir()
    subprocess.run(["mount", *arguments, str(directory)], check=True)
    stack.callback(subprocess.run, ["umount", str(directory)], check=True)
    return directory
