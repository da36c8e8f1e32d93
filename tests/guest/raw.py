# SPDX-License-Identifier: MIT
"""System calls by number, for those that the C library has no function for or does not do as asked."""

import ctypes
import errno
from collections.abc import Callable

from ptshare.syscalls import checked, libc

# x86-64
PTRACE, SET_TID_ADDRESS, EXIT_THREAD, CLONE, FUTEX, ARCH_PRCTL = 101, 218, 60, 56, 202, 158
MBIND, GET_MEMPOLICY, MOVE_PAGES, SET_MEMPOLICY, SET_ROBUST_LIST = 237, 239, 279, 238, 273
VMSPLICE, PROCESS_VM_READV, PROCESS_VM_WRITEV, USERFAULTFD, RSEQ = 278, 310, 311, 323, 334
IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER = 425, 426, 427
PIDFD_OPEN, PROCESS_MADVISE, PROCESS_MRELEASE, PRCTL, IOCTL = 434, 440, 448, 157, 16
SIGALTSTACK, MSEAL = 131, 462

Argument = int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None


def _plain(argument: Argument) -> object:
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def syscall(number: int, *arguments: Argument) -> int:
    """The call's result.

    :raises OSError: it failed
    """
    return checked(libc.syscall(ctypes.c_long(number), *map(_plain, arguments)))


class Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def memory(addr: int, length: int) -> memoryview:
    """The memory at an address, as a buffer for Python's own calls."""
    return memoryview((ctypes.c_char * length).from_address(addr)).cast("B")


def outcome(call: Callable[..., object], *arguments: object) -> object:
    """What a call returns, or the name of the error number that it fails with."""
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
