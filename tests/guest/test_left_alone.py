# SPDX-License-Identifier: MIT
"""What looks at the tables of one process, or changes them, passes guests by, since it would disturb others:
who asks for it is refused, and what ages, moves, merges or watches pages skips guests.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import calls
import pagebits
import pytest
import raw
from agents import Agents
from calls import GRANULE, MAP_FIXED, MAP_SHARED, PAGE, RW, SHARED_PT
from files import opened
from onlookers import PAGES, SIZE, Onlookers, eventually, noted
from paging import drain
from settings import setting, write

MADV_MERGEABLE, MADV_NOHUGEPAGE = 12, 15
PR_SET_MEMORY_MERGE = 67


class _Registration(ctypes.Structure):
    """struct uffdio_register"""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("ioctls", ctypes.c_uint64),
    )


UFFDIO_API, UFFDIO_REGISTER, UFFDIO_COPY, UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC028AA03, 0xC018AA06
UFFD_FEATURE_WP_HUGETLBFS_SHMEM, UFFD_FEATURE_WP_UNPOPULATED, UFFD_FEATURE_WP_ASYNC = (
    1 << 12,
    1 << 13,
    1 << 15,
)
MISSING, WRITE_PROTECTION, MINOR = 1, 2, 4


def ioctl(fd: int, request: int, argument: Any) -> object:
    return raw.outcome(raw.syscall, raw.IOCTL, fd, request, argument)


@pytest.mark.parametrize("mode", [MISSING, WRITE_PROTECTION, MINOR, MISSING | WRITE_PROTECTION])
def test_no_userfaultfd(mode: int) -> None:
    """An ordinary mapping can be registered, a guest in no mode, nor a range with one in it."""
    features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    with calls.memfd(SIZE) as fd, Onlookers(1) as them:
        uffd = raw.syscall(raw.USERFAULTFD, os.O_CLOEXEC)
        assert ioctl(uffd, UFFDIO_API, struct.pack("QQQ", 0xAA, features, 0)) == 0
        area = calls.free_area(2 * SIZE)
        for at, flags in ((area, MAP_SHARED), (area + SIZE, SHARED_PT)):
            calls.mmap(SIZE, RW, flags | MAP_FIXED, fd, 0, at)
            calls.store(at, SIZE)
        with them.undisturbed(fd):
            for start, length in ((area + SIZE, SIZE), (area + SIZE, PAGE), (area, 2 * SIZE)):
                assert ioctl(uffd, UFFDIO_REGISTER, _Registration(start, length, mode)) == "EINVAL"
            assert not noted(area) & {"um", "uw", "ui"}
            # What needs no registration of its own finds none.
            copy = struct.pack("QQQQq", area + SIZE, area, PAGE, 0, 0)
            assert ioctl(uffd, UFFDIO_COPY, copy) == "ENOENT"
            assert ioctl(uffd, UFFDIO_WRITEPROTECT, struct.pack("QQQ", area + SIZE, PAGE, 1)) == "ENOENT"
        assert ioctl(uffd, UFFDIO_REGISTER, _Registration(area, SIZE, mode)) == 0
        os.close(uffd)
        calls.munmap(area, 2 * SIZE)


PAGEMAP_SCAN = 0xC0606610
PM_SCAN_WP_MATCHING, PM_SCAN_CHECK_WPASYNC = 1, 2
PAGE_IS_PRESENT = 1 << 3


def test_pagemap_scan_protects_nothing() -> None:
    """PAGEMAP_SCAN finds the pages of a guest, and protects none: it would protect them for all."""
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at, Onlookers(1) as them:
        calls.store(at, SIZE)
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
        found = (ctypes.c_uint64 * 12)()
        with them.undisturbed(fd):
            for flags, result in ((0, 1), (PM_SCAN_WP_MATCHING, 0), (PM_SCAN_CHECK_WPASYNC, "EPERM")):
                what = (0, PAGE_IS_PRESENT, 0, PAGE_IS_PRESENT)
                range_ = (at, at + SIZE, 0, ctypes.addressof(found), 4)
                scan = struct.pack("12Q", 96, flags, *range_, 0, *what)
                assert ioctl(pagemap, PAGEMAP_SCAN, ctypes.create_string_buffer(scan, 96)) == result
        assert found[:3] == [at, at + SIZE, PAGE_IS_PRESENT]
        os.close(pagemap)


@pytest.mark.parametrize("what", "12345")
def test_clearing_references(what: str) -> None:
    """/proc/PID/clear_refs, each value that it takes, is for ordinary mappings alone."""
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at, Onlookers(1) as them:
        calls.store(at, SIZE)
        calls.mmap(GRANULE, RW, MAP_SHARED | MAP_FIXED, fd, 0, at)
        calls.store(at, GRANULE)
        with them.undisturbed(fd):
            write(Path("/proc/self/clear_refs"), what)
            assert pagebits.smaps(at)["Referenced"] == ("0 kB" if what in "13" else f"{GRANULE // 1024} kB")
        assert pagebits.smaps(at + GRANULE)["Referenced"] == f"{GRANULE // 1024} kB"


@pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "guest"])
def test_no_store_is_missing_from_soft_dirty(flags: int) -> None:
    """Who has cleared soft-dirty bits is told of each page that was written since; of more, with a guest."""
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, flags, fd) as at:
        calls.store(at, GRANULE)
        calls.touch(at, SIZE)
        Path("/proc/self/clear_refs").write_text("4")
        before = pagebits.entries(at, SIZE)
        assert flags == SHARED_PT or not any(entry & pagebits.SOFT_DIRTY for entry in before)
        pages = range(0, PAGES, 50)
        for page in pages:
            calls.poke(at + page * PAGE, 1)
        after = pagebits.entries(at, SIZE)
        assert [page for page in pages if not after[page] & pagebits.SOFT_DIRTY] == []


def test_a_page_that_any_guest_uses_is_not_idle() -> None:
    with calls.memfd(SIZE) as fd, Agents(3) as agents:
        at = agents.all_do("mmap", SIZE, RW, SHARED_PT, fd)
        agents.do(0, "store", at[0], SIZE, 1)
        with calls.mapped(SIZE, RW, SHARED_PT, fd) as mine:
            calls.touch(mine, SIZE)
            frames = [pagebits.frame(mine + page * PAGE) for page in (3, 600)]
        # A page that is on no list of the kernel's yet cannot be idle.
        drain()
        for frame in frames:
            pagebits.set_idle(frame)
        assert [pagebits.idle(frame) for frame in frames] == [True, True]
        # Linked by way of another page, so that no CPU has this one in its TLB.
        agents.do(1, "peek", at[1] + 300 * PAGE)
        assert [pagebits.idle(frame) for frame in frames] == [True, True]
        agents.do(1, "peek", at[1] + 3 * PAGE)
        assert [pagebits.idle(frame) for frame in frames] == [False, True]
        agents.do(2, "poke", at[2] + 600 * PAGE, 1)
        assert [pagebits.idle(frame) for frame in frames] == [False, False]


def lru_gen() -> tuple[int, int]:
    """The root's memory cgroup, and its youngest generation on node 0."""
    lines = Path("/sys/kernel/debug/lru_gen").read_text().splitlines()
    [first] = [number for number, line in enumerate(lines) if line.split()[::2] == ["memcg", "/"]]
    youngest = 0
    for line in lines[first + 2 :]:
        if line.split()[0] in ("memcg", "node"):
            break
        youngest = int(line.split()[0])
    return int(lines[first].split()[1]), youngest


def test_aging_walks_no_guest() -> None:
    """The multi-gen LRU's walk of page tables clears the accessed bits that it finds; not those of guests."""
    with (
        calls.memfd(SIZE) as fd,
        calls.memfd(SIZE) as other,
        calls.mapped(SIZE, RW, SHARED_PT, fd) as guest,
        calls.mapped(SIZE, RW, MAP_SHARED, other) as ordinary,
        Onlookers(1) as them,
        setting(Path("/sys/kernel/mm/lru_gen/enabled"), "7"),
        them.undisturbed(fd),
    ):
        for at in (guest, ordinary):
            calls.store(at, SIZE)
        for _ in range(2):
            group, youngest = lru_gen()
            # With swappiness, and of processes that have not run since, too.
            write(Path("/sys/kernel/debug/lru_gen"), f"+ {group} 0 {youngest} 60 1")
        referenced = [int(pagebits.smaps(at)["Referenced"].split()[0]) for at in (guest, ordinary)]
        assert referenced[0] == SIZE // 1024
        assert referenced[1] < SIZE // 1024 // 2


def test_no_numa_hinting_in_a_guest() -> None:
    """The scheduler makes pages of a busy process inaccessible, to see who uses them; not those of guests."""
    knobs = Path("/sys/kernel/debug/sched/numa_balancing")
    with (
        calls.memfd(SIZE) as fd,
        calls.memfd(SIZE) as other,
        Onlookers(1) as them,
        setting(knobs / "scan_delay_ms", "1"),
        setting(knobs / "scan_period_min_ms", "10"),
        setting(Path("/proc/sys/kernel/numa_balancing"), "1"),
    ):
        ordinary = them.do(0, "mmap", SIZE, RW, MAP_SHARED, other)
        guest = them.do(0, "mmap", SIZE, RW, SHARED_PT, fd)
        hints, disturbed = them.ask(0, "read_until_hinted", ordinary, guest, SIZE)
        assert hints >= PAGES
        assert disturbed < PAGES // 10


def test_guests_are_not_merged() -> None:
    """KSM merges anonymous pages with the same content, not those of a guest that are called mergeable."""
    ksm = Path("/sys/kernel/mm/ksm")
    with (
        calls.memfd(SIZE) as fd,
        Onlookers(1) as them,
        setting(ksm / "pages_to_scan", "10000"),
        setting(ksm / "sleep_millisecs", "1"),
    ):
        pid = them.pid(0)
        guest = them.do(0, "mmap", SIZE, RW, SHARED_PT, fd)
        private = them.do(0, "mmap", GRANULE, RW, calls.MAP_PRIVATE | calls.MAP_ANONYMOUS)
        them.do(0, "madvise", private, GRANULE, MADV_NOHUGEPAGE)
        for at, length in ((guest, SIZE), (private, GRANULE)):
            them.do(0, "store", at, length, 77)
            them.do(0, "madvise", at, length, MADV_MERGEABLE)
        them.ask(0, "prctl", PR_SET_MEMORY_MERGE, 1)
        before = pagebits.entries(guest, SIZE, pid)
        assert len(set(before)) == PAGES
        try:
            write(ksm / "run", "1")

            def merged() -> bool:
                return len(set(pagebits.entries(private, GRANULE, pid))) < GRANULE // PAGE // 10

            assert eventually(merged)
        finally:
            write(ksm / "run", "2")
            write(ksm / "run", "0")
        assert pagebits.entries(guest, SIZE, pid) == before
        assert "mg" not in pagebits.smaps(guest, pid)["VmFlags"].split()


@contextmanager
def damon(pid: int, areas: list[int], idle: str = "") -> Iterator[None]:
    """DAMON samples some areas of a process, each SIZE long, for a while.

    :param idle: what it does to those of which it sees no access
    """
    admin = Path("/sys/kernel/mm/damon/admin/kdamonds")
    context = admin / "0/contexts/0"
    try:
        write(admin / "nr_kdamonds", "1")
        write(admin / "0/contexts/nr_contexts", "1")
        write(context / "operations", "fvaddr")
        for name, microseconds in (("sample_us", 1000), ("aggr_us", 20_000), ("update_us", 1_000_000)):
            write(context / "monitoring_attrs/intervals" / name, str(microseconds))
        write(context / "targets/nr_targets", "1")
        write(context / "targets/0/pid_target", str(pid))
        write(context / "targets/0/regions/nr_regions", str(len(areas)))
        for number, at in enumerate(sorted(areas)):
            write(context / f"targets/0/regions/{number}/start", str(at))
            write(context / f"targets/0/regions/{number}/end", str(at + SIZE))
        if idle:
            write(context / "schemes/nr_schemes", "1")
            write(context / "schemes/0/action", idle)
            for name, most in (("sz", str(SIZE)), ("nr_accesses", "0"), ("age", "1000000")):
                write(context / f"schemes/0/access_pattern/{name}/max", most)
        write(admin / "0/state", "on")
        yield
        write(admin / "0/state", "off")
    finally:
        write(admin / "nr_kdamonds", "0")


def test_damon_leaves_guests_alone() -> None:
    """It clears the accessed bits of pages that it samples, and notes that they are idle; not of guests."""
    with calls.memfd(SIZE) as fd, calls.memfd(SIZE) as other, Onlookers(2) as them:
        areas = [them.do(1, "mmap", SIZE, RW, *how) for how in ((MAP_SHARED, other), (SHARED_PT, fd))]
        with them.undisturbed(fd):
            for at in areas:
                them.do(1, "store", at, SIZE, 5)
            ordinary, guest = (pagebits.frames(at, SIZE, them.pid(1)) for at in areas)
            with damon(them.pid(1), areas):
                assert eventually(lambda: pagebits.flagged(ordinary, pagebits.IDLE) >= PAGES // 10)
            assert pagebits.flagged(guest, pagebits.IDLE) == 0


def test_damon_finds_no_guest_idle(ext4: Path) -> None:
    """What it does to idle memory of a process, it does not to what is everybody's."""
    paths = [ext4 / "ordinary", ext4 / "guest"]
    for path in paths:
        path.write_bytes(bytes(SIZE))
    os.sync()
    with opened(paths[0]) as other, opened(paths[1]) as fd, Onlookers(2) as them:
        areas = [them.do(1, "mmap", SIZE, RW, *how) for how in ((MAP_SHARED, other), (SHARED_PT, fd))]
        for at in areas:
            them.do(1, "touch", at, SIZE)
        ordinary, guest = areas
        drain()
        with damon(them.pid(1), areas, idle="pageout"):
            assert eventually(lambda: pagebits.present(ordinary, SIZE, them.pid(1)) < PAGES // 2)
        assert pagebits.present(guest, SIZE, them.pid(1)) == PAGES
