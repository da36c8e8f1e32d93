# SPDX-License-Identifier: MIT
"""What can be seen of processes and of the machine: /proc and /sys."""

import os
import re
from array import array
from collections.abc import Mapping
from contextlib import suppress

from ptshare import counters, syscalls
from ptshare.conform.calls import ADDRESS, AREA
from ptshare.pagemap import PRESENT, scan

__all__ = ["maps", "page_tables", "present", "sysfs", "tables"]

_MAPS = re.compile(rb"^(\w+)-(\w+) (...). (\w+) (\w+):(\w+) (\d+)", re.MULTILINE)
_STATUS = re.compile(rb"^(VmPTE|VmSharedPT):\s+(\d+)", re.MULTILINE)

_REGIONS = 2048
_regions = array("Q", bytes(_REGIONS * 24))


def sysfs() -> list[int]:
    """Domains, guests, tables: /sys/kernel/mm/ptshare."""
    now = counters.sharing_counters()
    assert now is not None
    return [now.domains, now.guests, now.tables]


def page_tables() -> tuple[int, int]:
    """PageTables of /proc/meminfo, and all page tables that somebody answers for; pages."""
    known = _known_tables()
    while True:
        counters.fold_per_cpu()
        everything = counters.page_tables_kib() * 1024 // syscalls.PAGE
        # What reads this takes memory of its own meanwhile, and perhaps a table for it.
        before, known = known, _known_tables()
        if known == before:
            return everything, known


def _known_tables() -> int:
    """Those of processes and of domains."""
    found = sysfs()[2]
    for name in os.listdir("/proc"):
        # A thread of the kernel may end meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError):
            found += tables(int(name))[0] if name.isdecimal() else 0
    return found


def tables(pid: int) -> tuple[int, int]:
    """VmPTE in pages, VmSharedPT in bytes."""
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        found = dict(_STATUS.findall(file.read()))
    # Kernel threads have neither.
    own, shared = (int(found.get(name, 0)) << 10 for name in (b"VmPTE", b"VmSharedPT"))
    return own // syscalls.PAGE, shared


def maps(pid: int, files: Mapping[tuple[int, int], int]) -> list[list[int]]:
    """Start, end, protection, offset and file of each line of /proc/PID/maps; neighbours that continue each
    other are one.

    :param files: device and inode -> number
    """
    with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
        lines = file.read()
    joined: list[list[int]] = []
    for start, end, access, offset, major, minor, inode in _MAPS.findall(lines):
        low, high = int(start, 16), int(end, 16)
        if not ADDRESS <= low < ADDRESS + AREA:
            continue
        prot = sum(bit for bit, letter in zip((1, 2, 4), access, strict=True) if letter != ord("-"))
        number = files.get((os.makedev(int(major, 16), int(minor, 16)), int(inode)), -1)
        last = joined[-1] if joined else [0] * 5
        continues = last[1] == low and last[2] == prot and last[4] == number
        if continues and last[3] + last[1] - last[0] == int(offset, 16):
            last[1] = high
        else:
            joined.append([low, high, prot, int(offset, 16), number])
    return joined


def present(pid: int) -> list[list[int]]:
    """Start and end of runs of pages that have an entry."""
    found: list[list[int]] = []
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        start, end = ADDRESS, ADDRESS + AREA
        while start < end:
            count, start = scan(pagemap.fileno(), start, end, _regions, any_of=PRESENT)
            for at in range(0, 3 * count, 3):
                low, high = _regions[at], _regions[at + 1]
                if found and found[-1][1] == low:
                    found[-1][1] = high
                else:
                    found.append([low, high])
    return found
