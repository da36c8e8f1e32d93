# SPDX-License-Identifier: MIT
"""What page tables a mapping was granted, and what it has now."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = [
    "PAGEMAP_ENTRY",
    "Asked",
    "Granted",
    "PageTables",
    "Report",
    "check_asked",
    "huge_bytes",
    "populated_tables",
]

Asked = Literal["shared", "auto", "ordinary"]
Granted = Literal["shared", "hugetlb", "ordinary"]

#: Bytes of an entry of /proc/PID/pagemap. proc_pid_pagemap(5)
PAGEMAP_ENTRY = 8

#: Bits "present" and "swapped" in an entry's last byte.
_POPULATED = 0xC0

#: Lines of /proc/PID/smaps. proc_pid_smaps(5)
_HUGE_LINES = {"ShmemPmdMapped:", "FilePmdMapped:", "Shared_Hugetlb:", "Private_Hugetlb:"}


def check_asked(page_tables: str) -> None:
    """Refuse what cannot be asked for.

    :raises ValueError: it is none of :data:`Asked`
    """
    if page_tables not in ("shared", "auto", "ordinary"):
        raise ValueError(f"page_tables must be 'shared', 'auto' or 'ordinary', not {page_tables!r}")


class PageTables(NamedTuple):
    """What page tables a mapping was asked for with, and what it got.

    :param asked: ``"shared"``, ``"auto"`` or ``"ordinary"``
    :param granted: ``"shared"``: those of the file (MAP_SHARED_PT). ``"hugetlb"``: of reserved huge pages,
        one entry for 2 MiB; the kernel shares the tables of each whole GiB of them. ``"ordinary"``: the
        process's own
    :param reason: why they are not shared, ``None``: they are, or nobody asked for it
    """

    asked: Asked
    granted: Granted
    reason: str | None


class Report(NamedTuple):
    """What a mapping has in its process at a moment.

    A table whose entries are all empty is not seen.

    :param page_tables: what was asked for and granted
    :param own_tables: tables of the last level, 4 KiB each, that the process has for itself
    :param shared_tables: tables of the last level, 4 KiB each, that it uses together with others
    :param huge: bytes that are mapped by huge pages, hugetlb or transparent, and need no such table
    :param faults: page faults of the process, minor and major, since it made or received the mapping, for
        whatever memory
    """

    page_tables: PageTables
    own_tables: int
    shared_tables: int
    huge: int
    faults: int


def populated_tables(pagemap: bytes, granule: int, page: int) -> int:
    """Granules with at least one page present or swapped.

    :param pagemap: entries of /proc/PID/pagemap, from an address on that is a multiple of the granule
    :param granule: bytes
    :param page: bytes
    """
    states = pagemap[PAGEMAP_ENTRY - 1 :: PAGEMAP_ENTRY]
    pages = granule // page
    # One look at each page's state, in C: those that are not populated are taken away.
    unpopulated = bytes(state for state in range(256) if not state & _POPULATED)
    return sum(
        bool(states[first : first + pages].translate(None, unpopulated))
        for first in range(0, len(states), pages)
    )


def huge_bytes(smaps: Iterable[str], start: int, end: int) -> int:
    """Bytes between two addresses that are mapped by huge pages.

    :param smaps: lines of /proc/PID/smaps
    """
    total, within = 0, False
    for line in smaps:
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            first, _, last = name.partition("-")
            within = start <= int(first, 16) and int(last, 16) <= end
        elif within and name in _HUGE_LINES:
            total += int(rest.split()[0]) << 10
    return total
