# SPDX-License-Identifier: MIT
"""What is done to files and file systems from outside, with the error numbers that come back."""

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32
MS_RDONLY, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 8, 32, 4096
SEAL_SHRINK, SEAL_GROW, SEAL_WRITE, SEAL_FUTURE_WRITE = 2, 4, 8, 16

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), with all its modes."""
    _check(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def seal(fd: int, seals: int) -> None:
    """Of a memfd: fcntl(2), F_ADD_SEALS."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


def remount(directory: Path, flags: int) -> None:
    """mount(2) with MS_REMOUNT."""
    _check(_libc.mount(None, os.fsencode(directory), None, ctypes.c_ulong(MS_REMOUNT | flags), None))


def umount(directory: Path) -> None:
    """umount(2), which fails while anything of the file system is in use."""
    _check(_libc.umount2(os.fsencode(directory), 0))


@contextmanager
def mounted(place: Path, kind: str, options: str = "") -> Iterator[Path]:
    """A file system of its own, at a place that is made for it."""
    place.mkdir()
    _check(
        _libc.mount(b"none", os.fsencode(place), kind.encode(), ctypes.c_ulong(0), options.encode()),
    )
    try:
        yield place
    finally:
        umount(place)


@contextmanager
def bound(directory: Path, place: Path, flags: int) -> Iterator[Path]:
    """A directory at a second place, mounted there with other flags."""
    place.mkdir()
    _check(
        _libc.mount(os.fsencode(directory), os.fsencode(place), None, ctypes.c_ulong(MS_BIND), None),
    )
    try:
        remount(place, MS_BIND | flags)
        yield place
    finally:
        umount(place)


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    """A descriptor of a file, for a while."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)
