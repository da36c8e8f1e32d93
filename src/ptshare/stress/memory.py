# SPDX-License-Identifier: MIT
"""The ways to read and write memory of the own process, by address."""

import ctypes
import errno
import os

from ptshare import syscalls
from ptshare.syscalls import PAGE

__all__ = ["BYTES", "WORDS", "Ways"]

#: All that a process can have mapped: bytes, and words of 8 bytes.
BYTES = memoryview((ctypes.c_ubyte * ((1 << 47) - PAGE)).from_address(0)).cast("B")
WORDS = BYTES.cast("Q")

_REFUSED = (errno.EFAULT, errno.EIO)


class Ways:
    """Reading and writing such that what is refused is told, and raises no signal.

    All return ``None`` or ``False`` when the memory cannot be accessed.
    """

    def __init__(self) -> None:
        self._scratch = os.memfd_create("ptshare-stress-scratch")
        self._pid = os.getpid()
        # It is the memory of the process that opens it.
        self._mem = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)

    def read_by_call(self, address: int, length: int) -> bytes | None:
        """The kernel copies, by this CPU's translations."""
        try:
            done = os.pwrite(self._scratch, BYTES[address : address + length], 0)
        except OSError as error:
            _check_refused(error)
            return None
        return os.pread(self._scratch, done, 0)

    def write_by_call(self, address: int, data: bytes) -> bool:
        """The kernel copies, by this CPU's translations."""
        os.pwrite(self._scratch, data, 0)
        try:
            return os.preadv(self._scratch, [BYTES[address : address + len(data)]], 0) == len(data)
        except OSError as error:
            _check_refused(error)
            return False

    def read_by_gup(self, address: int, length: int) -> bytes | None:
        """get_user_pages()"""
        try:
            return syscalls.vm_readv(self._pid, address, length)
        except OSError as error:
            _check_refused(error)
            return None

    def write_by_gup(self, address: int, data: bytes) -> bool:
        """get_user_pages()"""
        try:
            return syscalls.vm_writev(self._pid, address, data) == len(data)
        except OSError as error:
            _check_refused(error)
            return False

    def read_by_mem(self, address: int, length: int) -> bytes | None:
        """/proc/PID/mem: get_user_pages() with FOLL_FORCE."""
        try:
            return os.pread(self._mem, length, address)
        except OSError as error:
            _check_refused(error)
            return None

    def write_by_mem(self, address: int, data: bytes) -> bool:
        """/proc/PID/mem: get_user_pages() with FOLL_FORCE."""
        try:
            return os.pwrite(self._mem, data, address) == len(data)
        except OSError as error:
            _check_refused(error)
            return False


def _check_refused(error: OSError) -> None:
    """Raise what is more than a refusal."""
    if error.errno not in _REFUSED:
        raise error
