# SPDX-License-Identifier: MIT
"""System calls on memory as a C program makes them: at addresses of its own choice, with every flag, and with
the error numbers that come back as OSError.
"""

import ctypes
import errno
import mmap as _mmap
import os

from ptshare.abi import (
    MADV_COLLAPSE,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MAP_SHARED_PT,
    MAP_SHARED_VALIDATE,
)

__all__ = [
    "GIB",
    "GRANULE",
    "MADV_COLLAPSE",
    "MADV_POPULATE_READ",
    "MADV_POPULATE_WRITE",
    "MAP_ANONYMOUS",
    "MAP_FIXED",
    "MAP_FIXED_NOREPLACE",
    "MAP_HUGETLB",
    "MAP_LOCKED",
    "MAP_POPULATE",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "MLOCK_ONFAULT",
    "MREMAP_DONTUNMAP",
    "MREMAP_FIXED",
    "MREMAP_MAYMOVE",
    "NONE",
    "PAGE",
    "RW",
    "SHARED_PT",
    "SHARED_PT_VALIDATED",
    "R",
    "W",
    "X",
    "checked",
    "file_system",
    "libc",
    "madvise",
    "mincore",
    "mlock",
    "mlock2",
    "mmap",
    "mprotect",
    "mremap",
    "munlock",
    "munmap",
    "same_memory",
    "size_t",
    "vm_readv",
    "vm_writev",
]

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

MLOCK_ONFAULT = 1
#: Number of kcmp(2), for which the C library has no function.
_KCMP = {"x86_64": 312, "aarch64": 272}
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_ssize_t
libc.mremap.restype = ctypes.c_ssize_t
libc.syscall.restype = ctypes.c_long
libc.read.restype = ctypes.c_ssize_t
libc.write.restype = ctypes.c_ssize_t
libc.process_vm_readv.restype = ctypes.c_ssize_t
libc.process_vm_writev.restype = ctypes.c_ssize_t


def checked(result: int) -> int:
    """What a call of :data:`libc` returned.

    :raises OSError: it is -1
    """
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def size_t(value: int) -> ctypes.c_size_t:
    """An address or length, for a call of :data:`libc`."""
    return ctypes.c_size_t(value)


def mmap(length: int, prot: int, flags: int, fd: int = -1, offset: int = 0, addr: int = 0) -> int:
    """mmap(2); the address."""
    return checked(libc.mmap(size_t(addr), size_t(length), prot, flags, fd, ctypes.c_ssize_t(offset)))


def munmap(addr: int, length: int) -> None:
    """munmap(2)."""
    checked(libc.munmap(size_t(addr), size_t(length)))


def mprotect(addr: int, length: int, prot: int) -> None:
    """mprotect(2)."""
    checked(libc.mprotect(size_t(addr), size_t(length), prot))


def madvise(addr: int, length: int, advice: int) -> None:
    """madvise(2)."""
    checked(libc.madvise(size_t(addr), size_t(length), advice))


def mlock(addr: int, length: int) -> None:
    """mlock(2)."""
    checked(libc.mlock(size_t(addr), size_t(length)))


def mlock2(addr: int, length: int, flags: int) -> None:
    """mlock2(2)."""
    checked(libc.mlock2(size_t(addr), size_t(length), flags))


def munlock(addr: int, length: int) -> None:
    """munlock(2)."""
    checked(libc.munlock(size_t(addr), size_t(length)))


def mincore(addr: int, length: int) -> bytes:
    """mincore(2): a byte for each page, of which bit 0 says that the page is in memory."""
    vector = ctypes.create_string_buffer(-(-length // PAGE))
    checked(libc.mincore(size_t(addr), size_t(length), vector))
    return vector.raw


def file_system(fd: int) -> int:
    """fstatfs(2), ``f_type``: the number of the kind of file system that a file is on."""
    status = (ctypes.c_long * 32)()  # struct statfs is 120 bytes on 64-bit machines
    checked(libc.fstatfs(fd, status))
    return int(status[0])


def mremap(addr: int, old: int, new: int, flags: int, new_addr: int = 0) -> int:
    """mremap(2); the address."""
    return checked(libc.mremap(size_t(addr), size_t(old), size_t(new), flags, size_t(new_addr)))


class _Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def vm_readv(pid: int, addr: int, length: int) -> bytes:
    """process_vm_readv(2), so by get_user_pages(): what of the range could be read.

    :raises OSError: EFAULT: nothing could
    """
    buffer = ctypes.create_string_buffer(length)
    here, there = _Vector(ctypes.addressof(buffer), length), _Vector(addr, length)
    done = checked(libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
    return buffer.raw[:done]


def vm_writev(pid: int, addr: int, data: bytes) -> int:
    """process_vm_writev(2), so by get_user_pages(): how many bytes could be written.

    :raises OSError: EFAULT: none could
    """
    buffer = ctypes.create_string_buffer(data, len(data))
    here, there = _Vector(ctypes.addressof(buffer), len(data)), _Vector(addr, len(data))
    return checked(libc.process_vm_writev(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))


def same_memory(pid: int, other: int) -> bool:
    """Do two processes have one memory, as after clone(2) with CLONE_VM? kcmp(2)

    :raises OSError: one is gone, or may not be asked about; ENOSYS: the kernel does not have it
    """
    number = _KCMP.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    kcmp_vm = 1
    return checked(libc.syscall(ctypes.c_long(number), pid, other, kcmp_vm, 0, 0)) == 0
