# SPDX-License-Identifier: MIT
"""``Mapping``: a file in memory, through page tables that all processes share."""

import errno
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, Self

from ptshare import abi
from ptshare.support import UnsupportedError, granule, probe

__all__ = ["Granted", "HasFileno", "Mapping", "Mode", "PageTables"]

Mode = Literal["r", "r+"]
PageTables = Literal["shared", "auto", "ordinary"]
Granted = Literal["shared", "ordinary"]

_PROT = {"none": 0, "r": mmap.PROT_READ, "r+": mmap.PROT_READ | mmap.PROT_WRITE}
_OPEN = {"r": os.O_RDONLY, "r+": os.O_RDWR}


class HasFileno(Protocol):
    """An open file object."""

    def fileno(self) -> int:
        """Its file descriptor."""


class Mapping(mmap.mmap):
    """A shared mapping of a file, with page tables that belong to the file.

    Every process that maps the same file in the same mode uses the same tables, at whatever address and in
    whatever window. It is an ``mmap.mmap`` and can be used as one: slices, ``memoryview``,
    ``numpy.frombuffer``, ``find``, ``flush``, ``madvise``; its buffer covers exactly the bytes asked for.
    ``resize`` is refused when the tables are shared.

    A file that becomes shorter than the mapping makes an access past its new end a SIGBUS, as for every
    mapping.

    :param file: path, open file object, file descriptor, or ``None`` for anonymous memory, which the
        children share. A file object or descriptor may be closed afterwards
    :param mode: ``"r"``: read, ``"r+"``: read and write. Readers and writers of one file have different
        tables, so that nobody gains a right through a table; so have ``"r"`` mappings of a file that is open
        for writing
    :param offset: bytes, where in the file the mapping begins; a multiple of the granule
    :param length: bytes, default: to the end of the file; at the kernel it is rounded up to whole granules
    :param page_tables: ``"shared"``: or else an error; ``"auto"``: shared if the kernel can for this file,
        else ordinary, see the attribute; ``"ordinary"``: as every kernel does
    :raises UnsupportedError: ``"shared"``, and the kernel cannot; an OSError with EOPNOTSUPP
    :raises PermissionError: ``"r+"`` of a file opened for reading
    :raises ValueError: an unknown mode, an unaligned offset, an empty file, a window that is not within the
        file
    :raises OverflowError: a negative offset or length, or one beyond the address space
    :raises OSError: as open(2) and mmap(2)
    """

    page_tables: Granted
    """What was granted."""

    mode: Mode
    """As asked for."""

    offset: int
    """Bytes, where in the file the mapping begins."""

    _name: str
    #: Bytes mapped at the kernel, where they are more than the object's.
    _whole: int | None = None

    def __new__(
        cls,
        file: str | os.PathLike[str] | int | HasFileno | None,
        mode: Mode = "r",
        *,
        offset: int = 0,
        length: int | None = None,
        page_tables: PageTables = "shared",
    ) -> Self:
        """Map ``file``; see the class."""
        _check_choices(mode, page_tables)
        _check_window(offset, length)
        with _descriptor(file, mode) as fd:
            size = _length(fd, offset, length)
            if page_tables == "ordinary":
                self = cls._map(fd, size, _PROT[mode], mmap.MAP_SHARED, offset)
                granted: Granted = "ordinary"
            else:
                try:
                    self = cls._map_shared(fd, size, _PROT[mode], offset)
                    granted = "shared"
                except UnsupportedError:
                    if page_tables == "shared":
                        raise
                    self = cls._map(fd, size, _PROT[mode], mmap.MAP_SHARED, offset)
                    granted = "ordinary"
        self.page_tables = granted
        self.mode = mode
        self.offset = offset
        self._name = _name(file)
        return self

    @classmethod
    def _map(cls, fd: int, size: int, prot: int, flags: int, offset: int) -> Self:
        return super().__new__(cls, fd, size, flags=flags, prot=prot, offset=offset)

    @classmethod
    def _map_shared(cls, fd: int, size: int, prot: int, offset: int) -> Self:
        if fd == -1:
            # The kernel takes MAP_SHARED_VALIDATE for files only, so that it has to be asked beforehand.
            support = probe()
            if not support.supported:
                raise UnsupportedError(str(support.reason))
            flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | abi.MAP_SHARED_PT
        else:
            flags = abi.MAP_SHARED_VALIDATE | abi.MAP_SHARED_PT
        whole = _round_up(size, granule())
        try:
            if size == whole:
                return cls._map(fd, size, prot, flags, offset)
            return cls._map_beyond(fd, size, whole, prot, flags, offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            raise UnsupportedError(
                probe().reason or "the kernel does not share them for a file of this kind"
            ) from None

    @classmethod
    def _map_beyond(cls, fd: int, size: int, whole: int, prot: int, flags: int, offset: int) -> Self:
        """Map ``whole`` bytes, of which the object shows ``size``."""
        from ptshare import _window

        address = _window.map_whole(whole, prot, flags, fd, offset)
        try:
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self = cls._map(-1, mmap.PAGESIZE, prot, private, 0)
            placeholder = _window.address_of(self)
            _window.stand_for(self, address, size)
        except BaseException:
            _window.unmap(address, whole)
            raise
        self._whole = whole
        _window.unmap(placeholder, mmap.PAGESIZE)
        return self

    @property
    def address(self) -> int:
        """Where the mapping begins in this process.

        :raises ValueError: it is closed
        """
        from ptshare import _window

        return _window.address_of(self)

    def protect(self, mode: Literal["none", "r", "r+"], offset: int = 0, length: int | None = None) -> None:
        """Change what may be done with the memory (mprotect(2)): ``"none"``, ``"r"`` or ``"r+"``.

        With shared page tables the protection belongs to the file's tables: it changes for **every**
        process that has mapped the file in this mode, in one call, and when the call returns no CPU uses
        the old rights any more. An access that is not allowed is a SIGSEGV, through a Python object too; a
        system call that is given the memory fails with EFAULT.

        :param offset: bytes from the beginning of the mapping, a multiple of the page size
        :param length: bytes, rounded up to pages; default: to the end
        :raises PermissionError: more than the file was opened for; nothing has changed, for anyone
        :raises ValueError: the mapping is closed, the mode is unknown, or the window is not within the
            mapping
        :raises OSError: as mprotect(2)
        """
        from ptshare import _window

        if mode not in _PROT:
            raise ValueError(f"mode must be 'none', 'r' or 'r+', not {mode!r}")
        address = self.address
        if offset % mmap.PAGESIZE:
            raise ValueError(f"offset must be a multiple of the page size, {mmap.PAGESIZE}, not {offset}")
        end = len(self) if length is None else offset + length
        if not 0 <= offset < end <= len(self):
            raise ValueError(f"bytes {offset} to {end} are not within a mapping of {len(self)} bytes")
        if end == len(self):
            end = self._whole or end
        _window.protect(address + offset, end - offset, _PROT[mode])

    def resize(self, newsize: int) -> None:
        """Change the size of mapping and file, as ``mmap.mmap`` does.

        :raises ValueError: the page tables are shared
        """
        if self.page_tables == "shared":
            raise ValueError(
                "a mapping with shared page tables keeps its size; resize the file and map it again"
            )
        super().resize(newsize)

    def size(self) -> int:
        """Bytes of the file, or of the mapping where the object holds no descriptor of the file."""
        return len(self) if self._whole else super().size()

    def close(self) -> None:
        """Unmap; nothing if it is closed already. Other processes notice nothing.

        :raises BufferError: a ``memoryview``, array or the like of the mapping is alive
        """
        if self._whole is None or self.closed:
            super().close()
            return
        from ptshare import _window

        # The kernel unmaps whole granules only, so the object stands for all that was mapped while it lets
        # go.
        address, size = self.address, len(self)
        _window.stand_for(self, address, self._whole)
        try:
            super().close()
        except BufferError:
            _window.stand_for(self, address, size)
            raise

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    def __del__(self) -> None:
        """Unmap all that was mapped, also where nobody called ``close``."""
        if self._whole is not None and not self.closed:
            self.close()

    def __repr__(self) -> str:
        """What is mapped, and how."""
        if self.closed:
            return f"<ptshare.Mapping of {self._name}, closed>"
        return (
            f"<ptshare.Mapping of {self._name}, {self.mode!r}, {len(self)} bytes from {self.offset}, "
            f"{self.page_tables} page tables>"
        )


def _check_choices(mode: str, page_tables: str) -> None:
    if mode not in _OPEN:
        raise ValueError(f"mode must be 'r' or 'r+', not {mode!r}")
    if page_tables not in ("shared", "auto", "ordinary"):
        raise ValueError(f"page_tables must be 'shared', 'auto' or 'ordinary', not {page_tables!r}")


def _check_window(offset: int, length: int | None) -> None:
    for name, value in (("offset", offset), ("length", length)):
        if value is not None and not 0 <= value <= sys.maxsize:
            raise OverflowError(f"{name} must be from 0 to {sys.maxsize} bytes, not {value}")
    if offset % granule():
        raise ValueError(f"offset must be a multiple of the granule, {granule()} bytes, not {offset}")
    if length == 0:
        raise ValueError("length must be at least 1 byte; None maps to the end of the file")


@contextmanager
def _descriptor(file: str | os.PathLike[str] | int | HasFileno | None, mode: Mode) -> Iterator[int]:
    """A descriptor of ``file``, -1 for none; closed at the end if it was opened here."""
    if file is None:
        yield -1
    elif isinstance(file, int):
        if file < 0:
            raise OSError(errno.EBADF, f"{file} is no file descriptor")
        yield file
    elif isinstance(file, str | os.PathLike):
        # O_NONBLOCK: the open of a FIFO would wait for a writer; for a file it changes nothing.
        fd = os.open(file, _OPEN[mode] | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)
    elif hasattr(file, "fileno"):
        yield file.fileno()
    else:
        raise TypeError(f"file must be a path, an open file, a descriptor or None, not {type(file).__name__}")


def _length(fd: int, offset: int, length: int | None) -> int:
    """Bytes to map."""
    if fd == -1:
        if length is None or offset:
            raise ValueError("anonymous memory needs a length and has no offset")
        return length
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a directory cannot be mapped")
    if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
        if length is None:
            raise ValueError("a device needs a length")
        return length
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.ENODEV, "a pipe, FIFO or socket cannot be mapped")
    if status.st_size == 0:
        raise ValueError("an empty file cannot be mapped")
    end = status.st_size if length is None else offset + length
    if not offset < end <= status.st_size:
        raise ValueError(f"bytes {offset} to {end} are not within the file, which has {status.st_size}")
    return end - offset


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _name(file: str | os.PathLike[str] | int | HasFileno | None) -> str:
    if file is None:
        return "anonymous memory"
    if isinstance(file, int):
        return f"descriptor {file}"
    if isinstance(file, str | os.PathLike):
        return repr(os.fspath(file))
    return repr(getattr(file, "name", file))
