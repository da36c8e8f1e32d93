# SPDX-License-Identifier: MIT
"""``SharedMemory``: named memory, as the standard library's, through page tables that all processes share."""

import errno
import os
import secrets
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

from ptshare._source import number
from ptshare.mapping import Mapping
from ptshare.report import Asked, PageTables, Report

__all__ = ["SharedMemory"]

#: Where the C library's shm_open(3) has it.
_DIRECTORY = "/dev/shm"

#: Random names are as long as the standard library's, 14 characters with the slash.
_PREFIX = "/pts_"

#: Bytes of a file's name.
_NAME_MAX = 255

#: What the resource tracker is told are lines, their parts divided by colons.
_UNTRACKABLE = frozenset(":\n")

#: How the resource tracker of :mod:`multiprocessing` knows such memory.
_KIND = "shared_memory"


class SharedMemory:
    """A block of memory with a name by which other processes attach, in the place of
    ``multiprocessing.shared_memory.SharedMemory``: parameters, attributes and methods are the same, and
    either attaches to what the other has created.

    A block appears under its name with its full size and all at once: whoever attaches finds no half-made
    one, and a process that is killed while it creates one leaves none.

    :param name: of the block, without a slash; ``None``: a random one, for ``create`` only. With ``track``
        ASCII without a colon or a line break, since the resource tracker writes and reads lines of such
    :param create: make a new block, else attach to one
    :param size: bytes of a new block; the kernel maps whole granules, :attr:`size` is what was asked for
    :param track: have multiprocessing's resource tracker unlink the block when the processes that it watches
        have ended, as the standard library does; ``False`` there needs Python 3.13
    :param page_tables: as :class:`ptshare.Mapping`
    :raises FileExistsError: ``create``, and there is a block of that name
    :raises FileNotFoundError: attach, and there is none
    :raises TypeError: a name that is no str, a size that is no int
    :raises ValueError: a size that is not positive, no name to attach to, one that cannot be tracked,
        an empty block
    :raises OSError: as shm_open(3) and mmap(2)
    """

    # So that close() and a destructor find them whatever __init__() did.
    _name: str | None = None
    _mapping: Mapping | None = None
    _buf: memoryview | None = None

    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: int = 0,
        *,
        track: bool = True,
        page_tables: Asked = "auto",
    ) -> None:
        size = number("'size'", size)
        if size < 0 or (create and size == 0):
            raise ValueError(f"'size' must be a positive number of bytes, not {size}")
        if name is None and not create:
            raise ValueError("'name' can only be None if create=True")
        if name is not None:
            _check_name(name, track)
        self._track = track
        if not create:
            assert name is not None
            fd = os.open(_path(f"/{name}"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self._map(fd, page_tables)
            finally:
                os.close(fd)
            self._name = f"/{name}"
            if track:
                resource_tracker.register(self._name, _KIND)
            return
        # Without a name yet. It is linked to one when all is done that can fail.
        fd = os.open(_DIRECTORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            self._map(fd, page_tables)
            self._name = _link(fd, name, track)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(fd)

    def _map(self, fd: int, page_tables: Asked) -> None:
        self._mapping = Mapping(fd, "r+", page_tables=page_tables)
        self._buf = memoryview(self._mapping)
        self._size = len(self._mapping)

    @property
    def buf(self) -> memoryview | None:
        """The memory, :attr:`size` bytes; ``None`` after :meth:`close`."""
        return self._buf

    @property
    def name(self) -> str | None:
        """The name by which other processes attach."""
        return None if self._name is None else self._name[1:]

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    @property
    def page_tables(self) -> PageTables:
        """What page tables were asked for and what was granted.

        :raises ValueError: it is closed
        """
        return self._open().page_tables

    def report(self) -> Report:
        """What page tables the memory has in this process now; :meth:`ptshare.Mapping.report`.

        :raises ValueError: it is closed
        """
        return self._open().report()

    def close(self) -> None:
        """Unmap the memory in this process. The block stays.

        :raises BufferError: a view, array or the like of :attr:`buf` is alive
        """
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None

    def unlink(self) -> None:
        """Take the name away. The memory is freed when the last process has closed it.

        :raises FileNotFoundError: it is gone already
        """
        if self._name is not None:
            os.unlink(_path(self._name))
            if self._track:
                resource_tracker.unregister(self._name, _KIND)

    def __del__(self, _ending: Callable[[], bool] = sys.is_finalizing) -> None:
        """Close. Where the interpreter ends, the process will."""
        if not _ending():
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Attach by name where it is unpickled."""
        return _attach, (type(self), self.name, self._track, self._asked())

    def __repr__(self) -> str:
        """Name and size."""
        return f"{type(self).__name__}({self.name!r}, size={self.size})"

    def _asked(self) -> Asked:
        return "auto" if self._mapping is None else self._mapping.page_tables.asked

    def _open(self) -> Mapping:
        if self._mapping is None:
            raise ValueError("the shared memory is closed")
        return self._mapping


def _attach(cls: type[SharedMemory], name: str, track: bool, page_tables: Asked) -> SharedMemory:
    return cls(name, track=track, page_tables=page_tables)


def _check_name(name: str, track: bool) -> None:
    """Refuse what can be no name.

    :raises TypeError: no str
    :raises OSError: EINVAL, ENAMETOOLONG: there can be no block of that name
    :raises ValueError: a null character, or what the resource tracker would not understand
    """
    if not isinstance(name, str):
        raise TypeError(f"'name' must be a str or None, not {name!r}")
    if not name or "/" in name:
        raise OSError(errno.EINVAL, "a name must have at least one character and no slash", name)
    if "\0" in name:
        raise ValueError(f"'name' must be without an embedded null character, not {name!r}")
    if len(os.fsencode(name)) > _NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, f"a name must have at most {_NAME_MAX} bytes", name)
    if track and (not name.isascii() or not _UNTRACKABLE.isdisjoint(name)):
        raise ValueError(
            f"'name' must be ASCII without ':' and line breaks for multiprocessing's resource tracker, not "
            f"{name!r}; choose another name, or give track=False and unlink the block yourself"
        )


def _path(name: str) -> str:
    """The file of a block, ``name`` with its slash."""
    return _DIRECTORY + name


def _random_name() -> str:
    return _PREFIX + secrets.token_hex(4)


def _link(fd: int, name: str | None, track: bool) -> str:
    """Give the nameless file ``fd`` a name, by default a random one; the name with its slash."""
    while True:
        slashed = _random_name() if name is None else f"/{name}"
        try:
            _link_as(fd, slashed, track)
        except FileExistsError:
            if name is None:
                continue
            raise
        return slashed


def _link_as(fd: int, name: str, track: bool) -> None:
    taken = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    # The tracker may have the one that is there, and keeps no count of who told it.
    if os.path.lexists(_path(name)):
        raise taken
    # Before the name is there, so that it is taken away however this process ends.
    if track:
        resource_tracker.register(name, _KIND)
    directory = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By linkat(2) with AT_SYMLINK_FOLLOW, which os.link() uses if it is given a directory.
        os.link(str(fd), _path(name), src_dir_fd=directory, follow_symlinks=True)
    except BaseException as error:
        if track:
            resource_tracker.unregister(name, _KIND)
        if isinstance(error, FileExistsError):
            raise taken from None
        raise
    finally:
        os.close(directory)
