# SPDX-License-Identifier: MIT
"""io_uring(7), as much of it as one request at a time needs."""

import ctypes
import mmap
import os
import struct
from types import TracebackType
from typing import Self

import raw

READ_FIXED, WRITE_FIXED, READ, WRITE = 4, 5, 22, 23
_REGISTER_BUFFERS, _REGISTER_PBUF_RING = 0, 22
_SETUP_NO_MMAP, _SETUP_NO_SQARRAY = 1 << 14, 1 << 16
_ENTER_GETEVENTS = 1
_OFFSET_SQES = 0x10000000


class _Offsets(ctypes.Structure):
    """struct io_sqring_offsets; struct io_cqring_offsets has the same first four."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("head", "tail", "mask", "entries")),
        *((name, ctypes.c_uint32) for name in ("flags_or_overflow", "dropped_or_cqes", "array", "resv")),
        ("user_addr", ctypes.c_uint64),
    )


class _Params(ctypes.Structure):
    """struct io_uring_params"""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("sq_entries", "cq_entries", "flags", "cpu", "idle")),
        *((name, ctypes.c_uint32) for name in ("features", "wq_fd", "resv0", "resv1", "resv2")),
        ("sq", _Offsets),
        ("cq", _Offsets),
    )


def rings_at(addr: int) -> None:
    """Have the kernel put its rings into the two pages at ``addr``."""
    params = _Params(flags=_SETUP_NO_MMAP | _SETUP_NO_SQARRAY)
    params.cq.user_addr, params.sq.user_addr = addr, addr + mmap.PAGESIZE
    os.close(raw.syscall(raw.IO_URING_SETUP, 1, params))


class Ring:
    """One request at a time. A context manager."""

    def __init__(self) -> None:
        params = _Params(flags=_SETUP_NO_SQARRAY)
        self._fd = raw.syscall(raw.IO_URING_SETUP, 1, params)
        self._rings = mmap.mmap(self._fd, mmap.PAGESIZE)
        self._sqes = mmap.mmap(self._fd, mmap.PAGESIZE, offset=_OFFSET_SQES)
        self._sq, self._cq = params.sq, params.cq

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._rings.close()
        self._sqes.close()
        os.close(self._fd)

    def register(self, addr: int, length: int) -> None:
        """Make a fixed buffer, number 0, of memory: the kernel pins its pages for long."""
        vector = raw.Vector(addr, length)
        raw.syscall(raw.IO_URING_REGISTER, self._fd, _REGISTER_BUFFERS, vector, 1)

    def register_buffer_ring(self, addr: int) -> None:
        """Have the page at ``addr`` hold a ring of buffers to choose from."""
        what = ctypes.create_string_buffer(struct.pack("<QIHHQQQ", addr, 1, 0, 0, 0, 0, 0), 40)
        raw.syscall(raw.IO_URING_REGISTER, self._fd, _REGISTER_PBUF_RING, what, 1)

    def do(self, opcode: int, fd: int, addr: int, length: int, offset: int = 0) -> int:
        """Submit a request and wait for it.

        :raises OSError: it failed
        """
        request = struct.pack("<BBHiQQIIQHHiQQ", opcode, 0, 0, fd, offset, addr, length, 0, 0, 0, 0, 0, 0, 0)
        tail, mask = self._word(self._sq.tail), self._word(self._sq.mask)
        at = (tail & mask) * 64
        self._sqes[at : at + 64] = request
        self._rings[self._sq.tail : self._sq.tail + 4] = struct.pack("<I", tail + 1)
        assert raw.syscall(raw.IO_URING_ENTER, self._fd, 1, 1, _ENTER_GETEVENTS, None, 0) == 1
        head, mask = self._word(self._cq.head), self._word(self._cq.mask)
        at = self._cq.dropped_or_cqes + (head & mask) * 16
        result = int(struct.unpack_from("<i", self._rings, at + 8)[0])
        self._rings[self._cq.head : self._cq.head + 4] = struct.pack("<I", head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def _word(self, at: int) -> int:
        return int(struct.unpack_from("<I", self._rings, at)[0])
