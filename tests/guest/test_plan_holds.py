# SPDX-License-Identifier: MIT
"""The kernel has the page tables that ``ptshare plan`` reckons with: the same number of pages, not about."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import calls
import files
import pytest
from agents import Agent
from calls import GIB, GRANULE, MAP_FIXED_NOREPLACE, MAP_SHARED, PAGE, RW, SHARED_PT

from held import settles, sharing
from ptshare import counters, plan
from ptshare.counters import SharingCounters
from ptshare.demo.crew import Crew
from ptshare.plan import Method, Region

PROCESSES = 5

#: Begins a slot that nothing else is in, as are those behind it: all tables there are the region's.
SLOT = 64 * plan.slot(4)

_MADV_DONTDUMP = 16
_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")

#: One page of each granule, so that large regions need little memory.
ONE_A_GRANULE = Fraction(1, 512)


class Case(NamedTuple):
    """A region, and how it comes to be mapped by the method.

    :param split: in pieces of less than a GiB each
    """

    method: Method
    region: Region
    split: bool = False

    @property
    def length(self) -> int:
        """As mmap(2) takes it."""
        unit = {"ordinary": PAGE, "huge_2m": PAGE, "huge_1g": GIB}.get(self.method, GRANULE)
        return -(-self.region.size // unit) * unit


class _User(Agent):
    """A process that maps regions and touches them."""

    def map(self, fd: int, length: int, flags: int, start: int, offset: int, split: bool) -> None:
        calls.mmap(length, RW, flags | MAP_FIXED_NOREPLACE, fd, offset, SLOT + start)
        if split:
            # What is left out of core dumps is a mapping of its own.
            for at in range(0, length, GIB):
                calls.madvise(SLOT + start + at, GRANULE, _MADV_DONTDUMP)

    def touch(self, start: int, pages: int, count: int, sparse: bool) -> None:
        """Read the touched pages."""
        for n in range(count):
            page = n * pages // count if sparse else n
            ctypes.c_char.from_address(SLOT + start + page * PAGE).value  # noqa: B018

    def unmap(self, start: int, length: int) -> None:
        calls.munmap(SLOT + start, length)


@contextmanager
def file_for(case: Case, directory: Path) -> Iterator[int]:
    """The file, with what it needs around it."""
    size = case.region.offset + case.length
    if case.method == "huge_2m":
        with files.mounted(directory / "huge", "tmpfs", "huge=always") as place:
            (place / "file").touch()
            with files.opened(place / "file") as fd:
                os.ftruncate(fd, size)
                yield fd
    elif case.method in ("huge_1g", "hugetlb_2m_shared"):
        # The page of 1 GiB was reserved at boot: tests/guest_plugin.py
        pool = reserved(_POOL, 520) if case.method == "hugetlb_2m_shared" else nullcontext()
        flag = os.MFD_HUGE_2MB if case.method == "hugetlb_2m_shared" else os.MFD_HUGE_1GB
        with pool, calls.memfd(size, os.MFD_HUGETLB | flag) as fd:
            yield fd
    else:
        with calls.memfd(size) as fd:
            yield fd


@contextmanager
def reserved(pool: Path, pages: int) -> Iterator[None]:
    """So many huge pages, for a while."""
    pool.write_text(str(pages))
    try:
        assert pool.read_text() == f"{pages}\n"
        yield
    finally:
        pool.write_text("0")


def page_tables() -> int:
    """Page-table pages of the whole machine."""
    assert counters.fold_per_cpu()
    return counters.page_tables_kib() * 1024 // PAGE


def check(case: Case, directory: Path, idle: SharingCounters) -> None:
    """What processes, hosts and the machine have more is what is planned."""
    region = case.region
    # Four levels, whatever this machine has: Linux 6.12 counts tables of a fifth one nowhere.
    planned = plan.estimate(case.method, region, PROCESSES, 4)
    flags = SHARED_PT if case.method.startswith("shared_pt") else MAP_SHARED
    mapping = (case.length, flags, region.start, region.offset, case.split)
    touching = (region.start, region.pages, region.touched_pages, region.sparse)

    with file_for(case, directory) as fd, Crew(PROCESSES, _User) as crew:

        def use() -> None:
            crew.call("map", fd, *mapping)
            # One after the other, as those who race may not find the tables of hugetlb that they could share.
            crew.call("touch", *touching, at_once=1)

        def leave() -> None:
            crew.call("unmap", region.start, case.length)

        def counted() -> tuple[list[int], int]:
            return crew.call("own_pages"), page_tables()

        # Once before it counts: then all that the processes need besides is there.
        use()
        counted()
        leave()
        assert settles(sharing, idle)

        own_before, all_before = counted()
        use()
        own, everywhere = counted()
        tables = sharing().tables - idle.tables
        leave()
        assert settles(sharing, idle)
        assert counted() == (own_before, all_before)

        # VmPTE counts the tables that hugetlb shares in each process that uses them.
        each = planned.own.all + (planned.once.all if case.method == "hugetlb_2m_shared" else 0)
        print(f"{case}: {planned.own} each, {planned.once} once")
        assert [after - before for after, before in zip(own, own_before, strict=True)] == [each] * PROCESSES
        assert tables == (planned.once.all if flags == SHARED_PT else 0)
        assert everywhere - all_before == planned.in_all.all


@pytest.mark.parametrize(
    "region",
    [
        Region(5 * GRANULE + 3 * PAGE + 7),
        Region(512 * GRANULE, touched=Fraction(1, 5)),
        Region(2 * GIB + 3 * GRANULE + PAGE, 0, 0, ONE_A_GRANULE, True),
        Region(2 * GIB + 3 * GRANULE, 511 * GIB - GRANULE, 5 * GRANULE, ONE_A_GRANULE, True),
        Region(40 * GIB, 500 * GIB, 0, Fraction(1, 200_000), True),
    ],
    ids=["small", "a part", "GiBs", "over the end of a slot", "thin"],
)
def test_ordinary(region: Region, tmp_path: Path, idle: SharingCounters) -> None:
    check(Case("ordinary", region), tmp_path, idle)


@pytest.mark.parametrize(
    "region",
    [
        Region(5 * GRANULE, GIB - 2 * GRANULE),
        Region(5 * GRANULE + 3 * PAGE),
        Region(20 * GRANULE, touched=Fraction(1, 8)),
        Region(20 * GRANULE + PAGE, 0, GRANULE, Fraction(1, 2048), True),
    ],
    ids=["over two GiBs", "with a tail", "a part", "thin"],
)
def test_transparent_huge_pages(region: Region, tmp_path: Path, idle: SharingCounters) -> None:
    check(Case("huge_2m", region), tmp_path, idle)


@pytest.mark.parametrize(
    "region",
    [
        Region(GIB, 0, 0, ONE_A_GRANULE, True),
        Region(GIB + 4 * GRANULE - 5, 511 * GIB, 0, ONE_A_GRANULE, True),
        Region(GIB + 4 * GRANULE, GRANULE, 0, ONE_A_GRANULE, True),
        Region(GIB - 3 * PAGE, 0, 0, Fraction(1, 20)),
        Region(GIB - GRANULE),
    ],
    ids=["a GiB", "and more", "two parts of GiBs", "a part touched", "less than a GiB"],
)
def test_hugetlb_tables_that_the_kernel_shares(region: Region, tmp_path: Path, idle: SharingCounters) -> None:
    check(Case("hugetlb_2m_shared", region), tmp_path, idle)


def test_a_gib_in_one_page(tmp_path: Path, idle: SharingCounters) -> None:
    check(Case("huge_1g", Region(GIB - PAGE, 5 * GIB, 0, ONE_A_GRANULE, True)), tmp_path, idle)


@pytest.mark.parametrize(
    ("region", "split"),
    [
        (Region(2 * GIB + 3 * GRANULE, GRANULE, 0, ONE_A_GRANULE, True), False),
        (Region(2 * GIB + 3 * GRANULE, 0, GRANULE, ONE_A_GRANULE, True), False),
        (Region(2 * GIB, 511 * GIB - GRANULE, 3 * GIB, ONE_A_GRANULE, True), False),
        (Region(2 * GIB, GIB, 511 * GIB + GRANULE, ONE_A_GRANULE, True), False),
        (Region(5 * GRANULE - PAGE, GRANULE), False),
        (Region(2 * GIB, 0, 0, ONE_A_GRANULE, True), True),
    ],
    ids=["address", "offset", "over the end of a slot", "of the host's", "small", "in pieces"],
)
def test_links_of_granules(region: Region, split: bool, tmp_path: Path, idle: SharingCounters) -> None:
    check(Case("shared_pt_2m", region, split), tmp_path, idle)


@pytest.mark.parametrize(
    "region",
    [
        Region(GIB, 0, 0, ONE_A_GRANULE, True),
        Region(2 * GIB + 3 * GRANULE, 0, 0, ONE_A_GRANULE, True),
        Region(2 * GIB - GRANULE - 5, 0, 5 * GIB, ONE_A_GRANULE, True),
        Region(2 * GIB + 3 * GRANULE, 511 * GIB - GRANULE, GIB - GRANULE, ONE_A_GRANULE, True),
        Region(2 * GIB, GIB, 511 * GIB, ONE_A_GRANULE, True),
        Region(GIB - 3 * PAGE, 0, 0, Fraction(1, 20)),
        Region(40 * GIB, 500 * GIB, 0, Fraction(1, 200_000), True),
    ],
    ids=["a GiB", "and more", "and less", "over the end of a slot", "of the host's", "a part", "thin"],
)
def test_links_of_gibs(region: Region, tmp_path: Path, idle: SharingCounters) -> None:
    check(Case("shared_pt_1g", region), tmp_path, idle)
