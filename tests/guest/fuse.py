# SPDX-License-Identifier: MIT
"""A file system of one file whose server is ours: it sees what is asked for, and with which open file.

Spoken is the protocol of include/uapi/linux/fuse.h, 7.31 or newer. The server is a process of its own, since
who waits for a page of the file cannot serve it.
"""

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from files import umount

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE = 1, 2, 3, 4, 14, 15, 16, 18
FSYNC, FLUSH, INIT, OPENDIR, RELEASEDIR, DESTROY, BATCH_FORGET = 20, 25, 26, 27, 29, 38, 42
_NAMES = {READ: "read", WRITE: "write"}
_SILENT = (FORGET, BATCH_FORGET)
_OKAY = (FSYNC, FLUSH, RELEASE, RELEASEDIR, DESTROY)

#: Lengths of struct fuse_in_header and of what comes before the data of FUSE_WRITE.
_IN, _WRITE_IN = 40, 40
_MOST_BYTES = 1 << 17
_KEEP_CACHE = 2
_ROOT, _FILE = 1, 2
#: FUSE_BIG_WRITES
_FLAGS = 1 << 5

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Asked:
    """What the kernel asked the server for.

    :param what: "read" or "write"
    :param handle: of the open file that it did so with, as the server numbered it
    :param offset: bytes
    """

    what: str
    handle: int
    offset: int


@dataclass(frozen=True)
class Served:
    """The file system.

    :param file: its only file, of zeros until written to
    """

    file: Path
    log: int

    def asked(self) -> list[Asked]:
        """Reads and writes of the file so far."""
        text = os.pread(self.log, 1 << 20, 0).decode()
        fields = (line.split() for line in text.splitlines())
        return [Asked(what, int(handle), int(offset)) for what, handle, offset in fields]


class _Server:
    """:param size: of the file, bytes"""

    def __init__(self, device: int, log: int, size: int) -> None:
        self._device = device
        self._log = log
        self._content = bytearray(size)
        self._handles = 0

    def run(self) -> None:
        """Until it is unmounted."""
        with contextlib.suppress(OSError):
            while True:
                self._answer(os.read(self._device, _MOST_BYTES + 4096))

    def _answer(self, request: bytes) -> None:
        _, operation, unique, node = struct.unpack_from("IIQQ", request)
        if operation in _SILENT:
            return
        error, data = 0, b""
        try:
            data = self._done(operation, node, request[_IN:])
        except OSError as refused:
            error = -(refused.errno or errno.EIO)
        os.write(self._device, struct.pack("IiQ", 16 + len(data), error, unique) + data)

    def _done(self, operation: int, node: int, argument: bytes) -> bytes:
        if operation == INIT:
            major, minor, readahead = struct.unpack_from("III", argument)
            limits = struct.pack("HHIIHH", 16, 12, _MOST_BYTES, 1, _MOST_BYTES // 4096, 0)
            return struct.pack("IIII", major, minor, readahead, _FLAGS) + limits + bytes(32)
        if operation == LOOKUP:
            if argument.rstrip(b"\0") != b"file":
                raise OSError(errno.ENOENT, "no such file")
            return struct.pack("QQQQII", _FILE, 1, 3600, 3600, 0, 0) + self._attributes(_FILE)
        if operation in (GETATTR, SETATTR):
            return struct.pack("QII", 3600, 0, 0) + self._attributes(node)
        if operation in (OPEN, OPENDIR):
            self._handles += 1
            return struct.pack("QIi", self._handles, _KEEP_CACHE, 0)
        if operation == READ:
            handle, offset, size = struct.unpack_from("QQI", argument)
            self._note(operation, handle, offset)
            return bytes(self._content[offset : offset + size])
        if operation == WRITE:
            handle, offset, size = struct.unpack_from("QQI", argument)
            self._note(operation, handle, offset)
            self._content[offset : offset + size] = argument[_WRITE_IN : _WRITE_IN + size]
            return struct.pack("II", size, 0)
        if operation in _OKAY:
            return b""
        raise OSError(errno.ENOSYS, "not known here")

    def _note(self, operation: int, handle: int, offset: int) -> None:
        os.write(self._log, f"{_NAMES[operation]} {handle} {offset}\n".encode())

    def _attributes(self, node: int) -> bytes:
        size, mode = (0, 0o040755) if node == _ROOT else (len(self._content), 0o100644)
        numbers = struct.pack("QQQQQQ", node, size, size // 512, 0, 0, 0)
        return numbers + struct.pack("IIIIIIIIII", 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


@contextmanager
def served(place: Path, size: int) -> Iterator[Served]:
    """Mount it on a directory that is made for it.

    :param size: of the file, bytes
    """
    place.mkdir()
    log = os.memfd_create("asked")
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if _libc.mount(b"served", os.fsencode(place), b"fuse", ctypes.c_ulong(0), options.encode()):
        raise OSError(ctypes.get_errno(), "mount of a FUSE file system")
    server = os.fork()
    if server == 0:
        try:
            _Server(device, log, size).run()
        finally:
            os._exit(0)
    os.close(device)
    try:
        yield Served(place / "file", log)
    finally:
        umount(place)
        os.waitpid(server, 0)
        os.close(log)
