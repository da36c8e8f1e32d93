# SPDX-License-Identifier: MIT
"""The system calls of the contract as a C program makes them: at addresses of its own choice, with every
flag, and with the error numbers that come back.
"""

import ctypes
import errno
import fcntl
import mmap as _mmap
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ptshare.abi import MAP_SHARED_PT, MAP_SHARED_VALIDATE

NONE, R, W, X = 0, _mmap.PROT_READ, _mmap.PROT_WRITE, _mmap.PROT_EXEC
RW = R | W
PAGE = _mmap.PAGESIZE
GRANULE = 2 << 20
GIB = 1 << 30

MAP_SHARED = _mmap.MAP_SHARED
MAP_PRIVATE = _mmap.MAP_PRIVATE
MAP_ANONYMOUS = _mmap.MAP_ANONYMOUS
MAP_POPULATE = _mmap.MAP_POPULATE
MAP_FIXED = 0x10
MAP_LOCKED = 0x2000
MAP_HUGETLB = 0x40000
MAP_FIXED_NOREPLACE = 0x100000
SHARED_PT = MAP_SHARED | MAP_SHARED_PT
SHARED_PT_VALIDATED = MAP_SHARED_VALIDATE | MAP_SHARED_PT

MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE = 22, 23, 25

_PKEY_MPROTECT, _PKEY_ALLOC, _PKEY_FREE, _REMAP_FILE_PAGES = 329, 330, 331, 216  # x86-64

#: Among the highest bytes of pagemap entries: proc_pid_pagemap(5), bit 63.
_NOT_PRESENT = re.compile(rb"[\x00-\x7f]")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_ssize_t
_libc.mremap.restype = ctypes.c_ssize_t
_libc.syscall.restype = ctypes.c_long
_libc.read.restype = ctypes.c_ssize_t
_libc.write.restype = ctypes.c_ssize_t


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _size(value: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(value)


def mmap(length: int, prot: int, flags: int, fd: int = -1, offset: int = 0, addr: int = 0) -> int:
    """mmap(2); the address."""
    return _checked(_libc.mmap(_size(addr), _size(length), prot, flags, fd, ctypes.c_ssize_t(offset)))


def munmap(addr: int, length: int) -> None:
    _checked(_libc.munmap(_size(addr), _size(length)))


def mprotect(addr: int, length: int, prot: int) -> None:
    _checked(_libc.mprotect(_size(addr), _size(length), prot))


def madvise(addr: int, length: int, advice: int) -> None:
    _checked(_libc.madvise(_size(addr), _size(length), advice))


def mlock(addr: int, length: int) -> None:
    _checked(_libc.mlock(_size(addr), _size(length)))


def mremap(addr: int, old: int, new: int, flags: int, new_addr: int = 0) -> int:
    """mremap(2); the address."""
    return _checked(_libc.mremap(_size(addr), _size(old), _size(new), flags, _size(new_addr)))


def remap_file_pages(addr: int, length: int, pgoff: int) -> None:
    _checked(_libc.syscall(_REMAP_FILE_PAGES, _size(addr), _size(length), 0, _size(pgoff), 0))


def pkey_mprotect(addr: int, length: int, prot: int, pkey: int) -> None:
    _checked(_libc.syscall(_PKEY_MPROTECT, _size(addr), _size(length), prot, pkey))


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


def touch(addr: int, length: int) -> None:
    """Read one byte of every page, by plain loads."""
    # A slice with a step is one loop in C. What it returns stays small, so that it takes no page of its own.
    for at in range(addr, addr + length, GRANULE):
        part = min(GRANULE, addr + length - at)
        bytes(memoryview((ctypes.c_char * part).from_address(at))[::PAGE])


def faults(addr: int, length: int) -> int:
    """How many faults it takes to have every page present: read the first that is not, look again, and so on.

    Exact, where the process's count of faults has those of the interpreter among them.
    """
    taken = 0
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for at in range(addr, addr + length, GRANULE):
            pages = min(GRANULE, addr + length - at) // PAGE
            while absent := _NOT_PRESENT.search(os.pread(pagemap.fileno(), pages * 8, at // PAGE * 8)[7::8]):
                assert peek(at + absent.start() * PAGE) is not None
                taken += 1
    return taken


def store(addr: int, length: int, value: int = 1) -> None:
    """Write one byte of every page, by plain stores."""
    for at in range(addr, addr + length, GRANULE):
        part = min(GRANULE, addr + length - at)
        view = memoryview((ctypes.c_char * part).from_address(at)).cast("B")
        view[::PAGE] = bytes([value]) * (part // PAGE)


def mincore(addr: int, length: int) -> bytes:
    """mincore(2): a byte for each page."""
    vector = ctypes.create_string_buffer(length // PAGE)
    _checked(_libc.mincore(_size(addr), _size(length), vector))
    return vector.raw


class _Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _by_gup(call: str, addr: int) -> int | None:
    buffer = ctypes.create_string_buffer(1)
    here, there = _Vector(ctypes.addressof(buffer), 1), _Vector(addr, 1)
    done = getattr(_libc, call)(os.getpid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    return buffer.raw[0] if done == 1 else None


def read_by_gup(addr: int) -> int | None:
    """The byte at ``addr`` by process_vm_readv(2), so get_user_pages(); ``None`` if refused."""
    return _by_gup("process_vm_readv", addr)


def write_by_gup(addr: int) -> bool:
    """Store a zero by process_vm_writev(2); ``False`` if refused."""
    return _by_gup("process_vm_writev", addr) is not None


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


def free_area(length: int, align: int = GIB) -> int:
    """An address at which ``length`` bytes are unmapped, and those right before and behind them too."""
    room = length + 2 * align
    base = mmap(room + align, NONE, MAP_PRIVATE | MAP_ANONYMOUS)
    munmap(base, room + align)
    return (base + 2 * align - 1) // align * align


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
