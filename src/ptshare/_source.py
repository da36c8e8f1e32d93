# SPDX-License-Identifier: MIT
"""What a ``Mapping`` maps: how it is opened, what of it can be mapped, and how another process finds it."""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol

from ptshare.support import granule

__all__ = ["File", "HasFileno", "Inherited", "Mode", "Path", "anonymous", "check_window", "opened", "window"]

Mode = Literal["r", "r+"]

_OPEN = {"r": os.O_RDONLY, "r+": os.O_RDWR}


class HasFileno(Protocol):
    """An open file object."""

    def fileno(self) -> int:
        """Its file descriptor."""


File = str | os.PathLike[str] | int | HasFileno | None


class Path(NamedTuple):
    """A file that other processes find by its path.

    :param path: absolute
    :param device: with ``inode`` what file it was when it was mapped
    """

    path: str
    device: int
    inode: int

    @contextmanager
    def opened(self, mode: Mode) -> Iterator[int]:
        """A descriptor of the file.

        :raises FileNotFoundError: there is no such file any more
        :raises OSError: ESTALE: another file has taken its place
        """
        with opened(self.path, mode) as fd:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != (self.device, self.inode):
                raise OSError(errno.ESTALE, "another file than the one that was mapped is there", self.path)
            yield fd


class Sent(Protocol):
    """A descriptor on its way: ``multiprocessing.reduction.DupFd``."""

    def detach(self) -> int:
        """The descriptor, which is the caller's from then on."""


class Inherited(NamedTuple):
    """A file that has no path, or one that was handed over open: the descriptor itself travels.

    :param descriptor: as multiprocessing sends one
    """

    descriptor: Sent

    @contextmanager
    def opened(self, mode: Mode) -> Iterator[int]:
        """A descriptor of the file.

        :raises OSError: ESTALE: the sender has gone, or the descriptor has been taken already, or this
            process was not started by multiprocessing's and has another key
        """
        from multiprocessing import AuthenticationError

        try:
            fd = self.descriptor.detach()
        except (OSError, EOFError, AuthenticationError) as error:
            raise OSError(
                errno.ESTALE,
                "the mapping's descriptor is not to be had: it can be received once, while its sender lives, "
                "and by processes that multiprocessing has started from the same one; map a file by its path "
                "to have other processes find it",
            ) from error
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def opened(file: str | os.PathLike[str] | int | HasFileno, mode: Mode) -> Iterator[int]:
    """A descriptor of ``file``; closed at the end if it was opened here."""
    if isinstance(file, int):
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


@contextmanager
def anonymous(length: int, flags: int = 0) -> Iterator[int]:
    """A descriptor of new memory, ``length`` bytes of zeros.

    :param flags: memfd_create(2)
    :raises OSError: as memfd_create(2) and ftruncate(2)
    """
    fd = os.memfd_create("ptshare", os.MFD_CLOEXEC | flags)
    try:
        os.ftruncate(fd, length)
        yield fd
    finally:
        os.close(fd)


def check_window(offset: int, length: int | None) -> None:
    """Refuse what is no window of any file.

    :raises OverflowError: negative, or beyond the address space
    :raises ValueError: an unaligned offset, no length
    """
    for name, value in (("offset", offset), ("length", length)):
        if value is not None and not 0 <= value <= sys.maxsize:
            raise OverflowError(f"{name} must be from 0 to {sys.maxsize} bytes, not {value}")
    if offset % granule():
        raise ValueError(f"offset must be a multiple of the granule, {granule()} bytes, not {offset}")
    if length == 0:
        raise ValueError("length must be at least 1 byte; None maps to the end of the file")


def window(fd: int, offset: int, length: int | None) -> int:
    """Bytes to map of a file.

    :raises ValueError: an empty file, a window that is not within the file
    :raises OSError: it is no file that can be mapped
    """
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
        raise ValueError("cannot mmap an empty file")
    end = status.st_size if length is None else offset + length
    if not offset < end <= status.st_size:
        raise ValueError(f"bytes {offset} to {end} are not within the file, which has {status.st_size}")
    return end - offset
