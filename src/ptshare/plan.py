# SPDX-License-Identifier: MIT
"""How much memory page tables take, by arithmetic: docs/plan.md has the formulas.

A region is mapped by a number of processes, each of which touches the same pages of it. What each method
needs follows from where tables begin and end: a table of a level maps an aligned stretch of addresses, and
there is one for each such stretch in which a page is touched. x86-64 with pages of 4 KiB.
"""

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from ptshare import abi
from ptshare.sizes import format_bytes

__all__ = [
    "FORMAT",
    "GIB",
    "MAX_PROCESSES",
    "METHODS",
    "MIB",
    "PAGE",
    "VERSION",
    "Estimate",
    "Levels",
    "Method",
    "PlanError",
    "Planned",
    "Region",
    "Tables",
    "Usage",
    "as_json",
    "estimate",
    "estimates",
    "parse_percent",
    "plan_usage",
    "process_steps",
    "slot",
    "why_not",
]

Method = Literal["ordinary", "huge_2m", "huge_1g", "hugetlb_2m_shared", "shared_pt_2m", "shared_pt_1g"]
Levels = Literal[4, 5]

#: Each method, and what people read of it.
METHODS: dict[Method, str] = {
    "ordinary": "ordinary pages of 4 KiB",
    "huge_2m": "transparent huge pages of 2 MiB",
    "huge_1g": "hugetlb pages of 1 GiB",
    "hugetlb_2m_shared": "hugetlb 2 MiB, shared by GiBs",
    "shared_pt_2m": "MAP_SHARED_PT, links of 2 MiB",
    "shared_pt_1g": "MAP_SHARED_PT, links of 1 GiB",
}

#: What :func:`as_json` makes. The version changes when a field goes or changes its meaning.
FORMAT = "ptshare-plan"
VERSION = 1

MIB, GIB, _TIB, _PIB = 1 << 20, 1 << 30, 1 << 40, 1 << 50

#: Bytes of a page, and of a table of each level.
PAGE = 4096

#: pid_max can be no larger on 64-bit machines. Documentation/admin-guide/sysctl/kernel.rst
MAX_PROCESSES = 1 << 22

#: Bytes that one table of each level maps. The PGD, above them all, is not the region's.
_PTE_SPAN = abi.GRANULE_X86_64
_PMD_SPAN = abi.PUD_SIZE_X86_64
_PUD_SPAN = 512 * _PMD_SPAN
_P4D_SPAN = 512 * _PUD_SPAN

#: Addresses that a process has: half of what the levels reach, the other half is the kernel's.
_USER: dict[Levels, int] = {4: 128 * _TIB, 5: 64 * _PIB}


class PlanError(ValueError):
    """What is asked for cannot be: the text says what was wanted, what was found, and what to do."""


class Region(NamedTuple):
    """What each process maps.

    :param size: bytes
    :param start: bytes between the region's address and the multiple of :func:`slot` before it
    :param offset: where in the file it begins, bytes
    :param touched: which part of its pages is touched, more than 0 and at most 1
    :param sparse: the touched pages are spread evenly over the region, else they are its first ones
    """

    size: int
    start: int = 0
    offset: int = 0
    touched: Fraction = Fraction(1)
    sparse: bool = False

    @property
    def pages(self) -> int:
        """Pages of the region. A part of a page counts whole."""
        return _ceil(self.size, PAGE)

    @property
    def touched_pages(self) -> int:
        """Pages that are touched. A part of a page counts whole."""
        return -(-self.pages * self.touched // 1)

    @property
    def last_touched(self) -> int:
        """The last page that is touched, counted from the region's first, which is 0 and touched too."""
        count = self.touched_pages
        return (count - 1) * self.pages // count if self.sparse else count - 1


class Tables(NamedTuple):
    """Page-table pages of each level.

    :param pte: tables of the last level, an entry a page
    :param pmd: an entry a table of PTEs, or a page of 2 MiB
    :param pud: an entry a PMD table, or a page of 1 GiB
    :param p4d: an entry a PUD table; there are none with four levels
    """

    pte: int = 0
    pmd: int = 0
    pud: int = 0
    p4d: int = 0

    @property
    def upper(self) -> int:
        """Those above the tables of PTEs."""
        return self.pmd + self.pud + self.p4d

    @property
    def all(self) -> int:
        """Those of all levels."""
        return self.pte + self.upper

    def plus(self, other: "Tables") -> "Tables":
        """Both together, level by level.

        :param other: what is added
        """
        return Tables(*(mine + its for mine, its in zip(self, other, strict=True)))

    def times(self, number: int) -> "Tables":
        """So many of them, level by level.

        :param number: how many
        """
        return Tables(*(pages * number for pages in self))


class Estimate(NamedTuple):
    """What a method needs.

    :param method: one of :data:`METHODS`
    :param processes: how many map the region
    :param own: the tables that each process has for itself
    :param once: those that exist once, however many processes there are
    """

    method: Method
    processes: int
    own: Tables
    once: Tables

    @property
    def in_all(self) -> Tables:
        """The tables of all processes, and those that exist once."""
        return self.own.times(self.processes).plus(self.once)


class Usage(NamedTuple):
    """A file or a piece of memory that was found in use.

    :param name: what people call it
    :param size: bytes that each process maps
    :param processes: how many do
    :param tables: tables of PTEs that were measured, of all these processes together
    """

    name: str
    size: int
    processes: int
    tables: int


class Planned(NamedTuple):
    """What a :class:`Usage` would need by each method.

    :param usage: what was found
    :param region: what is taken for it: as much of it touched, its first part, as the tables show
    :param estimates: of each method; none if no table was found
    """

    usage: Usage
    region: Region
    estimates: list[Estimate]


def slot(levels: Levels) -> int:
    """Bytes that one entry of the PGD maps.

    :param levels: of page tables
    """
    return _PUD_SPAN if levels == 4 else _P4D_SPAN


def estimates(region: Region, processes: int, levels: Levels = 4) -> list[Estimate]:
    """What each method needs that the region can have.

    :param region: what each process maps
    :param processes: how many do
    :param levels: of page tables
    :raises PlanError: there is no such region, or there cannot be so many processes
    """
    _check(region, processes, levels)
    return [
        estimate(method, region, processes, levels)
        for method in METHODS
        if why_not(method, region, levels) is None
    ]


def why_not(method: Method, region: Region, levels: Levels = 4) -> str | None:
    """Why a method cannot be had for the region, ``None`` if it can.

    :param method: one of :data:`METHODS`
    :param region: what each process maps
    :param levels: of page tables
    """
    if method == "huge_1g" and (region.start % _PMD_SPAN or region.offset % _PMD_SPAN):
        return "its start and offset must be multiples of 1 GiB"
    if method == "shared_pt_1g" and (region.start - region.offset) % _PMD_SPAN:
        return "its start and offset must differ by whole GiBs; where they do not, links are of 2 MiB"
    # The last GiB before the end of the addresses is not used, and the host's begin one slot after 0.
    limit = _USER[levels] - _PMD_SPAN - slot(levels)
    if method in ("shared_pt_2m", "shared_pt_1g") and region.offset + _up(region.size, _PTE_SPAN) > limit:
        return f"its offset and size must not be more than {format_bytes(limit)} together"
    return None


def estimate(method: Method, region: Region, processes: int, levels: Levels = 4) -> Estimate:
    """What one method needs.

    :param method: one of :data:`METHODS`
    :param region: what each process maps
    :param processes: how many do
    :param levels: of page tables
    :raises PlanError: there is no such region, there cannot be so many processes, or the method cannot be had
    """
    _check(region, processes, levels)
    reason = why_not(method, region, levels)
    if reason is not None:
        raise PlanError(f"{METHODS[method]}: {reason}")

    own = _tables(region, region.start, levels)
    once = Tables()
    if method == "huge_2m":
        # What is left of a huge page at the end is mapped by PTEs.
        own = own._replace(pte=own.pte - _whole(region, PAGE, _PTE_SPAN))
    elif method == "huge_1g":
        own = own._replace(pte=0, pmd=0)
    elif method == "hugetlb_2m_shared":
        shared = _whole(region, _PTE_SPAN, _PMD_SPAN)
        own = own._replace(pte=0, pmd=own.pmd - shared)
        once = Tables(pmd=shared)
    elif method == "shared_pt_2m":
        own = own._replace(pte=0)
        once = _tables(region, region.offset, levels)
    elif method == "shared_pt_1g":
        # A GiB that is not whole is linked by 2 MiB, from a PMD table of the process's own.
        own = own._replace(pte=0, pmd=own.pmd - _whole(region, _PTE_SPAN, _PMD_SPAN))
        once = _tables(region, region.offset, levels)
    return Estimate(method, processes, own, once)


def plan_usage(rows: Iterable[Usage], levels: Levels = 4) -> list[Planned]:
    """What was found in use, by each method.

    :param rows: what was found
    :param levels: of page tables
    :raises PlanError: a row is none that can be
    """
    planned = []
    for usage in rows:
        whole = Region(usage.size)
        _check(whole, usage.processes, levels)
        if usage.tables < 0:
            raise PlanError(f"wanted a number of tables from 0 on, found {usage.tables}; measure it again")
        # More than that: the mappings do not begin where a table does.
        most = usage.processes * _chunks(whole, 0, _PTE_SPAN)
        if usage.tables:
            region = whole._replace(touched=min(Fraction(usage.tables, most), Fraction(1)))
            planned.append(Planned(usage, region, estimates(region, usage.processes, levels)))
        else:
            planned.append(Planned(usage, whole, []))
    return planned


def process_steps(processes: int) -> list[int]:
    """Numbers of processes to draw a curve with, up to ``processes``.

    :param processes: the last one
    """
    return [1 << n for n in range(processes.bit_length()) if 1 << n < processes] + [processes]


def as_json(region: Region, processes: int, levels: Levels = 4) -> dict[str, Any]:
    """The plan as JSON values: pages of tables, and bytes. A method that cannot be had has a reason, and no
    figures.

    :param region: what each process maps
    :param processes: how many do
    :param levels: of page tables
    :raises PlanError: there is no such region, or there cannot be so many processes
    """
    found: dict[Method, Estimate] = {each.method: each for each in estimates(region, processes, levels)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "size_bytes": region.size,
        "start_bytes": region.start,
        "offset_bytes": region.offset,
        "page_bytes": PAGE,
        "pages": region.pages,
        "touched_pages": region.touched_pages,
        "sparse": region.sparse,
        "processes": processes,
        "levels": levels,
        "methods": [
            {
                "method": method,
                "name": name,
                "reason": why_not(method, region, levels),
                "per_process": _json(found[method].own) if method in found else None,
                "once": _json(found[method].once) if method in found else None,
                "in_all": _json(found[method].in_all) if method in found else None,
            }
            for method, name in METHODS.items()
        ],
        "not_counted": {"pgd_pages_per_process": 1, "pgd_pages_once_with_shared_pt": 1},
    }


def parse_percent(text: str) -> Fraction:
    """The part that a percentage is.

    :param text: such as ``100%``, ``12.5%`` or ``12.5``
    :raises PlanError: it is no percentage, or not more than 0 and at most 100
    """
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*%?", text.strip(), re.ASCII)
    if match is None or not 0 < Fraction(match[1]) <= 100:
        raise PlanError(
            f"wanted a percentage of more than 0 and at most 100, such as 12.5%, found {text!r}; "
            "say which part of the region is touched"
        )
    return Fraction(match[1]) / 100


def _check(region: Region, processes: int, levels: Levels) -> None:
    if levels not in _USER:
        raise PlanError(f"wanted page tables of 4 or 5 levels, found {levels}; the usual are 4")
    if not 1 <= processes <= MAX_PROCESSES:
        raise PlanError(
            f"wanted a number of processes from 1 to {MAX_PROCESSES:,}, the most that pid_max can be, "
            f"found {processes:,}; say how many map the region"
        )
    if region.size < 1:
        raise PlanError(
            f"wanted a size from 1 byte on, found {region.size:,}; say how much each process maps"
        )
    if region.size > _USER[levels]:
        raise PlanError(
            f"wanted a size of at most {format_bytes(_USER[levels])}, which are the addresses that a process "
            f"has with {levels} levels of page tables, found {format_bytes(region.size)}; "
            + ("plan with 5 levels" if levels == 4 and region.size <= _USER[5] else "plan with less")
        )
    if region.start % _PTE_SPAN or not 0 <= region.start < slot(levels):
        raise PlanError(
            f"wanted a start that is a multiple of 2 MiB and less than {format_bytes(slot(levels))}, "
            f"found {region.start:,} bytes; take the address modulo that"
        )
    if region.offset % _PTE_SPAN or not 0 <= region.offset < 1 << 63:
        raise PlanError(
            f"wanted an offset that is a multiple of 2 MiB, from 0 on and less than 8 EiB, "
            f"found {region.offset:,} bytes; begin at such a place of the file"
        )
    if not 0 < region.touched <= 1:
        raise PlanError(
            f"wanted a touched part of more than 0 and at most 1, found {region.touched}; "
            "say which part of the region is touched"
        )


def _tables(region: Region, at: int, levels: Levels) -> Tables:
    """Tables of a process that maps the region at an address with pages of 4 KiB."""
    return Tables(
        pte=_chunks(region, at, _PTE_SPAN),
        pmd=_chunks(region, at, _PMD_SPAN),
        pud=_chunks(region, at, _PUD_SPAN),
        p4d=_chunks(region, at, _P4D_SPAN) if levels == 5 else 0,
    )


def _chunks(region: Region, at: int, span: int) -> int:
    """Aligned stretches of ``span`` bytes with a touched page in them, where the region begins at ``at``.

    From the first to the last touched page each has one, unless the pages are spread so thinly that each page
    has a stretch to itself.
    """
    stretch = (at + region.last_touched * PAGE) // span - at // span + 1
    return min(stretch, region.touched_pages)


def _whole(region: Region, unit: int, span: int) -> int:
    """Those of the same that lie in the region as a whole, with its length rounded up to ``unit``.

    The others can only be the first and the last, since the first page is always touched.
    """
    start, end = region.start, region.start + _up(region.size, unit)
    ends = {start // span, (start + region.last_touched * PAGE) // span}
    parts = sum(each * span < start or (each + 1) * span > end for each in ends)
    return _chunks(region, start, span) - parts


def _json(tables: Tables) -> dict[str, dict[str, int]]:
    figures = {**tables._asdict(), "upper": tables.upper, "all": tables.all}
    return {"pages": figures, "bytes": {level: pages * PAGE for level, pages in figures.items()}}


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def _up(value: int, unit: int) -> int:
    return _ceil(value, unit) * unit
