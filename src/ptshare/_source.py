# SPDX-License-Identifier: MIT
"""What a ``Mapping`` maps: how it is opened, what of it can be mapped, and how another process finds it."""

import errno
import fcntl
import operator
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol, SupportsIndex

from ptshare.support import granule

__all__ = [
    "File",
    "HasFileno",
    "Inherited",
    "Mode",
    "Path",
    "anonymous",
    "check_access",
    "check_window",
    "number",
    "opened",
    "window",
]

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
            raise OSError(
                errno.EBADF,
                f"{file} is no file descriptor; for anonymous memory, as of mmap.mmap(-1, n), give None and "
                "a length",
            )
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


def number(name: str, value: SupportsIndex) -> int:
    """A parameter that counts bytes.

    :raises TypeError: it is no integer
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, in bytes, not {value!r}") from None


def check_window(
    offset: SupportsIndex, length: SupportsIndex | None, anonymous: bool = False
) -> tuple[int, int | None]:
    """Refuse what is no window of any file; offset and length as integers.

    :raises TypeError: one is no integer
    :raises OverflowError: negative, or more than ``sys.maxsize``
    :raises ValueError: an unaligned offset, no length
    """
    offset = number("offset", offset)
    length = None if length is None else number("length", length)
    for name, value in (("offset", offset), ("length", length)):
        if value is not None and not 0 <= value <= sys.maxsize:
            raise OverflowError(f"{name} must be from 0 to {sys.maxsize} bytes, not {value}")
    if offset % granule():
        raise ValueError(f"offset must be a multiple of the granule, {granule()} bytes, not {offset}")
    if length == 0:
        # There is no end of a file that None could stand for.
        raise ValueError(
            "length must be at least 1 byte" + ("" if anonymous else "; None maps to the end of the file")
        )
    return offset, length


def check_access(fd: int, mode: Mode) -> None:
    """Say why the kernel refused to map with EACCES; nothing if it was not for the descriptor.

    :raises PermissionError: the file was not opened for what the mode needs
    """
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if access == os.O_WRONLY or (mode == "r+" and access != os.O_RDWR):
        wanted, how = ("reading and writing", "'r+b' (O_RDWR)") if mode == "r+" else ("reading", "'rb'")
        found = "writing" if access == os.O_WRONLY else "reading"
        mend = ", or map it with mode 'r'" if access == os.O_RDONLY else ""
        raise PermissionError(
            errno.EACCES,
            f"mode {mode!r} needs a file that is open for {wanted}, and this one is open for {found} only: "
            f"open it with {how}{mend}",
        )


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
        raise ValueError(
            "cannot mmap an empty file; give it its size first (os.truncate, os.posix_fallocate)"
        )
    end = status.st_size if length is None else offset + length
    if not offset < end <= status.st_size:
        raise ValueError(f"bytes {offset} to {end} are not within the file, which has {status.st_size}")
    return end - offset
