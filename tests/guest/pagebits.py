# SPDX-License-Identifier: MIT
"""What the kernel has noted of a single page: bits of its entry, of its frame, and that nobody uses it."""

import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

from calls import PAGE

#: Of an entry: proc_pid_pagemap(5).
SOFT_DIRTY, PRESENT, FRAME = 1 << 55, 1 << 63, (1 << 55) - 1
#: Of a frame: Documentation/admin-guide/mm/pagemap.rst
DIRTY, IDLE = 1 << 4, 1 << 25


def _number(path: str, index: int) -> int:
    with open(path, "rb", buffering=0) as file:
        return int(struct.unpack("Q", os.pread(file.fileno(), 8, index * 8))[0])


def entry(addr: int, pid: int | str = "self") -> int:
    """What the page tables have, as pagemap tells it."""
    return entries(addr, PAGE, pid)[0]


def entries(addr: int, length: int, pid: int | str = "self") -> list[int]:
    """The same of each page in a range."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        return list(memoryview(os.pread(file.fileno(), length // PAGE * 8, addr // PAGE * 8)).cast("Q"))


def frame(addr: int, pid: int | str = "self") -> int:
    """The frame that is present at an address."""
    return frames(addr, PAGE, pid)[0]


def frames(addr: int, length: int, pid: int | str = "self") -> list[int]:
    """The frames of a range, all of which are present."""
    found = entries(addr, length, pid)
    assert all(each & PRESENT for each in found)
    return [each & FRAME for each in found]


def present(addr: int, length: int, pid: int | str = "self") -> int:
    """How many pages of a range are present."""
    return sum(bool(each & PRESENT) for each in entries(addr, length, pid))


def mapped(frames: Iterable[int]) -> list[int]:
    """How often page tables map each frame: /proc/kpagecount."""
    return [_number("/proc/kpagecount", number) for number in frames]


def flagged(frames: Iterable[int], flag: int) -> int:
    """How many frames have a bit in /proc/kpageflags. To read it changes nothing, unlike page_idle/bitmap."""
    with open("/proc/kpageflags", "rb", buffering=0) as file:
        found = (struct.unpack("Q", os.pread(file.fileno(), 8, number * 8))[0] for number in frames)
        return sum(bool(bits & flag) for bits in found)


_BITMAP = "/sys/kernel/mm/page_idle/bitmap"


def set_idle(number: int) -> None:
    """Mark a frame as unused from now on; its accessed bits are cleared by way of rmap."""
    with open(_BITMAP, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), struct.pack("Q", 1 << number % 64), number // 64 * 8)


def idle(number: int) -> bool:
    """Nobody has used the frame since; the accessed bits tell, by way of rmap."""
    return bool(_number(_BITMAP, number // 64) >> number % 64 & 1)


def smaps(addr: int, pid: int | str = "self") -> dict[str, str]:
    """The fields of the mapping that begins at ``addr``."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    match = re.search(rf"^{addr:x}-.*\n((?:\w+: .*\n)+)", text, re.MULTILINE)
    assert match is not None
    return {name: value.strip() for name, value in (line.split(":", 1) for line in match[1].splitlines())}
