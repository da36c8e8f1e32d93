# SPDX-License-Identifier: MIT
"""The system calls of the contract as a C program makes them: at addresses of its own choice, with every
flag, and with the error numbers that come back.
"""

import ctypes
import errno
import fcntl
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ptshare.syscalls import *  # noqa: F403
from ptshare.syscalls import (
    GIB,
    GRANULE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    NONE,
    PAGE,
    mmap,
    munmap,
    vm_readv,
    vm_writev,
)
from ptshare.syscalls import checked as _checked
from ptshare.syscalls import libc as _libc
from ptshare.syscalls import size_t as _size

#: From one page to the next where one stands for those around it: more than fault-around brings in (64 KiB).
SPARSELY = 32 * PAGE

_PKEY_MPROTECT, _PKEY_ALLOC, _PKEY_FREE, _REMAP_FILE_PAGES = 329, 330, 331, 216  # x86-64

#: Among the highest bytes of pagemap entries: proc_pid_pagemap(5), bit 63.
_NOT_PRESENT = re.compile(rb"[\x00-\x7f]")


def remap_file_pages(addr: int, length: int, pgoff: int) -> None:
    _checked(_libc.syscall(_REMAP_FILE_PAGES, _size(addr), _size(length), 0, _size(pgoff), 0))


def pkey_mprotect(addr: int, length: int, prot: int, pkey: int) -> None:
    _checked(_libc.syscall(_PKEY_MPROTECT, _size(addr), _size(length), prot, pkey))


def mlockall(flags: int) -> None:
    _checked(_libc.mlockall(flags))


def munlockall() -> None:
    _checked(_libc.munlockall())


def pkey_alloc() -> int:
    return _checked(_libc.syscall(_PKEY_ALLOC, 0, 0))


def pkey_free(pkey: int) -> None:
    _checked(_libc.syscall(_PKEY_FREE, pkey))


def peek(addr: int) -> int | None:
    """The byte at ``addr``, ``None`` if it cannot be read. A system call reads it, so no signal comes."""
    reader, writer = os.pipe()
    try:
        if _libc.write(writer, _size(addr), _size(1)) == 1:
            return os.read(reader, 1)[0]
        assert ctypes.get_errno() == errno.EFAULT
        return None
    finally:
        os.close(reader)
        os.close(writer)


def poke(addr: int, value: int) -> bool:
    """Store a byte; ``False`` if it cannot be written."""
    reader, writer = os.pipe()
    try:
        os.write(writer, bytes([value]))
        if _libc.read(reader, _size(addr), _size(1)) == 1:
            return True
        assert ctypes.get_errno() == errno.EFAULT
        return False
    finally:
        os.close(reader)
        os.close(writer)


def touch(addr: int, length: int, step: int = PAGE) -> None:
    """Read one byte of every page, or of one each ``step`` bytes, by plain loads."""
    # A slice with a step is one loop in C. What it returns stays small, so that it takes no page of its own.
    for at in range(addr, addr + length, GRANULE):
        part = min(GRANULE, addr + length - at)
        bytes(memoryview((ctypes.c_char * part).from_address(at))[::step])


def faults(addr: int, length: int, step: int = PAGE) -> int:
    """How many faults it takes to have every page present, or one each ``step`` bytes: read the first that is
    not, look again, and so on.

    Exact, where the process's count of faults has those of the interpreter among them.
    """
    taken = 0
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        highest = slice(7, None, step // PAGE * 8)
        for at in range(addr, addr + length, GRANULE):
            size = min(GRANULE, addr + length - at) // PAGE * 8
            while absent := _NOT_PRESENT.search(os.pread(pagemap.fileno(), size, at // PAGE * 8)[highest]):
                page = at + absent.start() * step
                assert peek(page) is not None
                taken += 1
                # A read that takes no fault is served from a TLB that should have been flushed.
                assert taken <= length // step, f"{page:#x} is read and never present"
    return taken


def store(addr: int, length: int, value: int = 1, step: int = PAGE) -> None:
    """Write one byte of every page, or of one each ``step`` bytes, by plain stores."""
    for at in range(addr, addr + length, GRANULE):
        part = min(GRANULE, addr + length - at)
        view = memoryview((ctypes.c_char * part).from_address(at)).cast("B")
        view[::step] = bytes([value]) * (part // step)


def read_by_gup(addr: int) -> int | None:
    """The byte at ``addr`` by process_vm_readv(2), so get_user_pages(); ``None`` if refused."""
    try:
        return vm_readv(os.getpid(), addr, 1)[0]
    except OSError:
        return None


def write_by_gup(addr: int) -> bool:
    """Store a zero by process_vm_writev(2); ``False`` if refused."""
    try:
        return vm_writev(os.getpid(), addr, b"\0") == 1
    except OSError:
        return False


def present(addr: int, pid: int | str = "self") -> bool:
    """The page tables have the page: proc_pid_pagemap(5), bit 63."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        file.seek(addr // PAGE * 8)
        return bool(file.read(8)[7] & 0x80)


@dataclass(frozen=True)
class Region:
    """A line of /proc/PID/maps."""

    start: int
    end: int
    access: str
    offset: int
    name: str


def regions(start: int, end: int, pid: int | str = "self") -> list[Region]:
    """What /proc/PID/maps says of [start, end)."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        match = re.match(r"(\w+)-(\w+) (\S+) (\w+) \S+ \d+\s*(.*)", line)
        assert match, line
        low, high, access, offset, name = match.groups()
        region = Region(int(low, 16), int(high, 16), access, int(offset, 16), name)
        if region.start < end and region.end > start:
            found.append(region)
    return found


def shared_regions() -> list[Region]:
    """This process's shared mappings. Of the others the interpreter makes and ends some when it likes."""
    return [region for region in regions(0, 1 << 64) if region.access[3] == "s"]


def free_area(length: int, align: int = GIB) -> int:
    """An address at which ``length`` bytes are unmapped, and those right before and behind them too."""
    room = length + 2 * align
    base = mmap(room + align, NONE, MAP_PRIVATE | MAP_ANONYMOUS)
    munmap(base, room + align)
    return (base + 2 * align - 1) // align * align


def link_faults(address: int, length: int) -> int:
    """Faults that it takes a process to link a range of a guest, by granules, where all tables exist: each
    links what lies in the same 16 granules of addresses.
    """
    around = 16 * GRANULE
    return (address + length - 1) // around - address // around + 1


@contextmanager
def memfd(size: int, flags: int = 0) -> Iterator[int]:
    """A file of ``size`` bytes in memory."""
    fd = os.memfd_create("guest-test", flags | os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def mapped(length: int, prot: int, flags: int, fd: int = -1, offset: int = 0, addr: int = 0) -> Iterator[int]:
    """mmap(2) for a while; what is still mapped at the end is unmapped."""
    at = mmap(length, prot, flags, fd, offset, addr)
    try:
        yield at
    finally:
        with suppress(OSError):
            munmap(at, length)


def error_of(call: object, *arguments: object, **keywords: object) -> str:
    """The name of the error number that a call fails with, ``""`` if it does not."""
    assert callable(call)
    try:
        call(*arguments, **keywords)
    except OSError as error:
        # Python knows this number by its other name.
        return errno.errorcode[error.errno or 0].replace("ENOTSUP", "EOPNOTSUPP")
    return ""


def flock(fd: int) -> None:
    """flock(2): an exclusive lock, at once or not at all."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _SigInfo(ctypes.Structure):
    _fields_ = (("signo", ctypes.c_int), ("errno", ctypes.c_int), ("code", ctypes.c_int))


def si_code_of_store(addr: int) -> int:
    """si_code of the signal that a plain store to ``addr`` raises (sigaction(2)); -1 if it raises none."""
    pid = os.fork()
    if pid == 0:
        # The tracer sees the signal with its siginfo before it is delivered.
        _libc.ptrace(0, 0, None, None)  # PTRACE_TRACEME
        os.kill(os.getpid(), signal.SIGSTOP)
        ctypes.memset(addr, 1, 1)
        os._exit(0)
    os.waitpid(pid, 0)
    _libc.ptrace(7, pid, None, None)  # PTRACE_CONT
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        return -1
    info = ctypes.create_string_buffer(128)
    _checked(_libc.ptrace(0x4202, pid, None, info))  # PTRACE_GETSIGINFO
    _libc.ptrace(8, pid, None, None)  # PTRACE_KILL
    os.waitpid(pid, 0)
    return int(_SigInfo.from_buffer(info).code)
