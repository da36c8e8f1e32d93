# SPDX-License-Identifier: MIT
"""Which physical pages a mapping has present, in any process, and what the kernel says of them."""

from collections.abc import Iterable

import pagebits

_KPF_THP = 1 << 22


def frames(pid: int, addr: int, length: int) -> list[int | None]:
    """For each page its frame number, ``None`` where the page tables have none."""
    return [
        entry & pagebits.FRAME if entry & pagebits.PRESENT else None
        for entry in pagebits.entries(addr, length, pid)
    ]


def huge(found: Iterable[int | None]) -> set[bool]:
    """Whether these frames are parts of large folios: of none, of all, or mixed."""
    return {bool(pagebits.flagged([frame], _KPF_THP)) for frame in found if frame is not None}


def kib(pid: int, addr: int, field: str) -> int:
    """A field of smaps that is a size."""
    return int(pagebits.smaps(addr, pid)[field].split()[0])
