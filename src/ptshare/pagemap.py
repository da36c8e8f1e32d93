# SPDX-License-Identifier: MIT
"""PAGEMAP_SCAN, the ioctl of /proc/PID/pagemap that tells which pages are there. include/uapi/linux/fs.h"""

import fcntl
import struct
from array import array

__all__ = ["HUGE", "PRESENT", "SWAPPED", "scan"]

#: Categories of a page.
PRESENT, SWAPPED, HUGE = 1 << 3, 1 << 4, 1 << 6

# _IOWR('f', 16, struct pm_scan_arg)
_PAGEMAP_SCAN = 0xC0606610
#: size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask,
#: category_anyof_mask, return_mask
_ARGUMENT = struct.Struct("=12Q")


def scan(
    fd: int,
    start: int,
    end: int,
    regions: "array[int]",
    *,
    any_of: int,
    none_of: int = 0,
    max_pages: int = 0,
) -> tuple[int, int]:
    """Look for pages of some categories in a range, until it ends or ``regions`` are full.

    :param fd: of /proc/PID/pagemap
    :param start: of the range, and ``end``: bytes, multiples of a page
    :param regions: ``array("Q")``, is written to, three numbers a region: start, end, 0 or PRESENT; pages
        that follow each other and are alike are one region
    :param any_of: categories, of which a page must have one
    :param none_of: categories, of which it must have none
    :param max_pages: after which it stops; 0: as many as there are
    :returns: number of regions, and the address up to which it has looked
    :raises OSError: ENOTTY before Linux 6.7; the process has ended, say
    """
    address, numbers = regions.buffer_info()
    argument = bytearray(
        _ARGUMENT.pack(
            96, 0, start, end, 0, address, numbers // 3, max_pages, none_of, none_of, any_of, PRESENT
        )
    )
    found: int = fcntl.ioctl(fd, _PAGEMAP_SCAN, argument, True)
    walk_end: int = _ARGUMENT.unpack(argument)[4]
    return found, walk_end
