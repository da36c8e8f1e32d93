# SPDX-License-Identifier: MIT
"""The ioctls of /proc/PID/maps and /proc/PID/pagemap. include/uapi/linux/fs.h"""

import errno
import fcntl
import os
import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

from ptshare.audit.proc import Vma
from ptshare.pagemap import HUGE, PRESENT, SWAPPED, scan

__all__ = ["NoIoctlError", "populated", "shared_vmas"]

# _IOWR('f', 17, struct procmap_query)
_PROCMAP_QUERY = 0xC0686611

_READABLE, _WRITABLE, _EXECUTABLE, _SHARED = 1, 2, 4, 8
_COVERING_OR_NEXT = 0x10

#: size, query_flags, query_addr, vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode, dev_major,
#: dev_minor, vma_name_size, build_id_size, vma_name_addr, build_id_addr
_QUERY = struct.Struct("=9Q4I2Q")
_NAME_BYTES = 4096

# Memory that the kernel writes to, by address.
_name = array("B", bytes(_NAME_BYTES))
_name_address = _name.buffer_info()[0]
_region = array("Q", [0, 0, 0])


class NoIoctlError(Exception):
    """The kernel does not have this ioctl: PROCMAP_QUERY came with 6.11, PAGEMAP_SCAN with 6.7."""


@contextmanager
def _ioctl() -> Iterator[None]:
    """Around an ioctl that the kernel may not have."""
    try:
        yield
    except OSError as error:
        # ENOTTY: the file knows no ioctls, or not this one; EINVAL: it knows others.
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise NoIoctlError from None
        raise


def _query(fd: int, argument: bytearray) -> None:
    with _ioctl():
        fcntl.ioctl(fd, _PROCMAP_QUERY, argument, True)


def shared_vmas(fd: int, known: dict[tuple[int, int, int], str]) -> Iterator[Vma]:
    """The shared mappings of a process, in order, by PROCMAP_QUERY.

    :param fd: of /proc/PID/maps
    :param known: names by device, inode and size of a page, those of this process are added: the kernel takes
        its time to write a path down
    :raises NoIoctlError: this kernel has none
    :raises OSError: the process has ended, say
    """
    at = 0
    while True:
        argument = bytearray(_QUERY.pack(104, _SHARED | _COVERING_OR_NEXT, at, *[0] * 12))
        try:
            _query(fd, argument)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        _, _, _, start, end, flags, page, offset, inode, major, minor, *_ = _QUERY.unpack(argument)
        key = (os.makedev(major, minor), inode, page)
        name = known.get(key)
        if name is None:
            name = known[key] = _name_at(fd, start)
        yield Vma(
            start,
            end,
            bool(flags & _READABLE),
            bool(flags & _WRITABLE),
            bool(flags & _EXECUTABLE),
            True,
            offset,
            major,
            minor,
            inode,
            name,
            page,
        )
        at = end


def _name_at(fd: int, address: int) -> str:
    """The name of the mapping at an address; a name of 4 KiB or more is none."""
    argument = bytearray(_QUERY.pack(104, 0, address, *[0] * 8, _NAME_BYTES, 0, _name_address, 0))
    try:
        _query(fd, argument)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.E2BIG, errno.ENOENT):
            return ""
        raise
    length = _QUERY.unpack(argument)[11]
    return os.fsdecode(_name[: max(0, length - 1)].tobytes())


def populated(fd: int, start: int, end: int, granule: int) -> Iterator[int]:
    """An address in each granule that has a page present or swapped and no huge page there: so one for each
    table that is in use. By PAGEMAP_SCAN.

    :param fd: of /proc/PID/pagemap
    :param start: of a mapping
    :param end: of it
    :raises NoIoctlError: this kernel has none
    """
    with _ioctl():
        while start < end:
            # One page is enough to know of the table, and the kernel stops looking at the second one.
            found, walked = scan(fd, start, end, _region, any_of=PRESENT | SWAPPED, none_of=HUGE, max_pages=1)
            if not found:
                return
            first = _region[0]
            yield first
            start = max(walked, (first | granule - 1) + 1)
