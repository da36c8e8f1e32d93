# SPDX-License-Identifier: MIT
"""Entries of page tables and the geometry of their levels: x86-64, pages of 4 KiB, four levels.

Intel SDM, volume 3, section 4.5; arch/x86/include/asm/pgtable_types.h
"""

__all__ = [
    "ENTRIES",
    "FLAGS",
    "GIB",
    "GRANULE",
    "LEVELS",
    "PAGE",
    "PGD",
    "PMD",
    "PTE",
    "PUD",
    "Flag",
    "entry",
    "flags_of",
    "frame_of",
    "index",
    "span",
]

PAGE = 4096
ENTRIES = 512

#: Levels of tables, the last one first.
PTE, PMD, PUD, PGD = range(4)
LEVELS = ("PTE", "PMD", "PUD", "PGD")


class Flag:
    """Bits of an entry."""

    PRESENT = 1 << 0
    WRITABLE = 1 << 1
    USER = 1 << 2
    ACCESSED = 1 << 5
    DIRTY = 1 << 6
    NO_EXECUTE = 1 << 63


FLAGS = Flag.PRESENT | Flag.WRITABLE | Flag.USER | Flag.ACCESSED | Flag.DIRTY | Flag.NO_EXECUTE
_FRAME = ((1 << 52) - 1) & -PAGE


def entry(frame: int, flags: int) -> int:
    """An entry, 8 bytes.

    :param frame: number of a frame of physical memory
    :param flags: of :class:`Flag`
    """
    assert not frame * PAGE & ~_FRAME
    assert not flags & ~FLAGS
    return frame * PAGE | flags


def frame_of(value: int) -> int:
    """The frame that an entry points to."""
    return (value & _FRAME) // PAGE


def flags_of(value: int) -> int:
    """The flags of an entry."""
    return value & FLAGS


def span(level: int) -> int:
    """Bytes that one entry of a level stands for; a whole table of the level below."""
    return PAGE << 9 * level


def index(address: int, level: int) -> int:
    """Which entry of a table of a level an address is in."""
    return address >> 12 + 9 * level & 511


#: What one table of PTEs maps, and what one of PMDs does.
GRANULE = span(PMD)
GIB = span(PUD)
