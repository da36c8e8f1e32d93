# SPDX-License-Identifier: MIT
"""Reclaim, swap and migration: what is taken from the shared tables is taken from all, and returns to all."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import calls
import pytest
from calls import GRANULE, MAP_SHARED, PAGE, RW, SHARED_PT, R
from files import KEEP_SIZE, PUNCH_HOLE, fallocate, opened
from frames import frames, kib
from paging import (
    MADV_COLD,
    MADV_DONTNEED,
    MADV_PAGEOUT,
    Pagers,
    Tally,
    drain,
    drop_caches,
    events,
    group,
    idle,
    movable,
    present,
    set_idle,
    tallied,
)
from settings import setting, write

SIZE = 2 * GRANULE
PAGES = SIZE // PAGE
NOTHING = [None] * PAGES


@pytest.fixture(params=["multi-gen", "two lists"])
def aging(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each of the two ways in which the kernel chooses what to reclaim."""
    with setting(Path("/sys/kernel/mm/lru_gen/enabled"), "y" if request.param == "multi-gen" else "n"):
        yield


@pytest.mark.usefixtures("swap")
def test_one_process_pages_out_for_all() -> None:
    """And one fault brings a page back for all."""
    with calls.memfd(SIZE) as fd, Pagers(3) as pagers:
        at = pagers.map(fd, SIZE)
        pagers.ask(0, "stamp", at[0], SIZE, 1)
        for n in (1, 2):
            pagers.do(n, "touch", at[n], SIZE)
        assert None not in pagers.frames(at, SIZE)
        drain()
        before = events()
        pagers.do(1, "madvise", at[1], SIZE, MADV_PAGEOUT)
        assert pagers.frames(at, SIZE) == NOTHING
        assert events()["pswpout"] - before["pswpout"] >= PAGES
        assert [kib(pagers.pid(n), at[n], "Swap") for n in range(3)] == [SIZE // 1024] * 3
        assert pagers.faults(2, at[2], SIZE) == PAGES
        assert None not in pagers.frames(at, SIZE)
        assert [pagers.faults(n, at[n], SIZE) for n in range(3)] == [0] * 3
        assert [pagers.ask(n, "wrong", at[n], SIZE, 1) for n in range(3)] == [None] * 3


@pytest.mark.usefixtures("swap")
def test_ordinary_mappings_of_several_processes_are_not_paged_out_by_one() -> None:
    """What the test before would find without shared tables."""
    with calls.memfd(SIZE) as fd, Pagers(2) as pagers:
        at = pagers.map(fd, SIZE, flags=MAP_SHARED)
        for n in range(2):
            pagers.do(n, "store", at[n], SIZE)
        drain()
        pagers.do(1, "madvise", at[1], SIZE, MADV_PAGEOUT)
        assert None not in pagers.frames(at, SIZE)


@pytest.mark.usefixtures("swap")
def test_pageout_takes_the_range_and_no_more() -> None:
    with calls.memfd(2 * SIZE) as fd, Pagers(2) as pagers:
        at = pagers.map(fd, 2 * SIZE)
        for n in range(2):
            pagers.ask(n, "stamp", at[n], 2 * SIZE, 1)
        drain()
        first, last = 509, 517  # on both sides of a table's end
        pagers.do(0, "madvise", at[0] + first * PAGE, (last - first) * PAGE, MADV_PAGEOUT)
        found = pagers.frames(at, 2 * SIZE)
        assert [page for page, frame in enumerate(found) if frame is None] == list(range(first, last))
        assert pagers.faults(1, at[1], 2 * SIZE) == last - first
        assert pagers.ask(0, "wrong", at[0], 2 * SIZE, 1) is None


@pytest.mark.usefixtures("swap")
def test_who_may_only_read_pages_nothing_out(tmpfs: Path) -> None:
    """As on an ordinary mapping, it is for those who might write to the file."""
    path = tmpfs / "file"
    path.write_bytes(bytes(SIZE))
    with opened(path, os.O_RDONLY) as fd, Pagers(2) as pagers:
        at = pagers.map(fd, SIZE, R)
        for n in range(2):
            pagers.do(n, "touch", at[n], SIZE)
        drain()
        pagers.ask(1, "set_user", 65534)
        pagers.do(1, "madvise", at[1], SIZE, MADV_PAGEOUT)
        assert None not in frames(pagers.pid(0), at[0], SIZE)
        pagers.do(0, "madvise", at[0], SIZE, MADV_PAGEOUT)
        assert frames(pagers.pid(0), at[0], SIZE) == NOTHING


@pytest.mark.usefixtures("swap", "aging")
def test_a_cgroups_reclaim_takes_pages_from_all() -> None:
    """The pages are charged to one guest's cgroup, and mapped by others."""
    with group() as cgroup, calls.memfd(SIZE) as fd, Pagers(3) as pagers:
        at = pagers.map(fd, SIZE)
        cgroup.add(pagers.pid(0))
        for n in range(3):
            pagers.do(n, "touch", at[n], SIZE)
        for version in range(1, 4):
            writer, reader = version % 3, (version + 1) % 3
            pagers.ask(writer, "stamp", at[writer], SIZE, version)
            drain()
            before = events()
            cgroup.reclaim(SIZE)
            gone = pagers.frames(at, SIZE).count(None)
            assert gone >= PAGES // 2
            assert events()["pswpout"] - before["pswpout"] >= gone
            assert pagers.faults(reader, at[reader], SIZE) == gone
            assert [pagers.faults(n, at[n], SIZE) for n in range(3)] == [0] * 3
            assert [pagers.ask(n, "wrong", at[n], SIZE, version) for n in range(3)] == [None] * 3


@pytest.mark.usefixtures("swap", "aging")
def test_a_file_larger_than_the_cgroups_limit() -> None:
    """Each in turn stores a new version into all pages, which the others then read; few fit at a time."""
    size = 3 * GRANULE
    with group() as cgroup, calls.memfd(size) as fd, Pagers(3) as pagers:
        at = pagers.map(fd, size)
        for n in range(3):
            cgroup.add(pagers.pid(n))
            pagers.do(n, "touch", at[n], size)
        cgroup.limit(size // 2)
        before = events()
        for version in (1, 2):
            for n in (version % 3, (version + 1) % 3):
                if n == version % 3:
                    pagers.ask(n, "stamp", at[n], size, version)
                assert pagers.ask(n, "wrong", at[n], size, version) is None
                assert pagers.frames(at, size).count(None) >= size // PAGE // 2
        for event in ("pswpout", "pswpin"):
            assert events()[event] - before[event] >= size // PAGE


@pytest.mark.usefixtures("swap")
def test_the_last_process_goes_while_its_pages_are_reclaimed() -> None:
    """Reclaim finds the host's mapping for as long as that stands, and what belongs to it. What was freed too
    early shows with poisoned slabs.
    """
    size = 32 * GRANULE
    for _ in range(3):
        with group() as cgroup, calls.memfd(size) as fd, Pagers(1) as pagers:
            cgroup.add(pagers.pid(0))
            at = pagers.map(fd, size)[0]
            # Backwards, so that reclaim begins where unmapping ends.
            for advice in (calls.MADV_POPULATE_WRITE, MADV_COLD):
                for start in range(size - GRANULE, -1, -GRANULE):
                    pagers.do(0, "madvise", at + start, GRANULE, advice)
            before = events()["pgsteal_anon"]
            reclaimer = os.fork()
            while reclaimer == 0:
                cgroup.reclaim(size)
            try:
                deadline = time.monotonic() + 20
                while events()["pgsteal_anon"] == before and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert events()["pgsteal_anon"] > before
                pagers.kill([0])
            finally:
                os.kill(reclaimer, signal.SIGKILL)
                os.waitpid(reclaimer, 0)


@pytest.mark.usefixtures("swap")
def test_swapoff_brings_all_back(swap: Path) -> None:
    with calls.memfd(SIZE) as fd, Pagers(2) as pagers:
        at = pagers.map(fd, SIZE)
        for n in range(2):
            pagers.ask(n, "stamp", at[n], SIZE, 7)
        drain()
        pagers.do(0, "madvise", at[0], SIZE, MADV_PAGEOUT)
        assert pagers.frames(at, SIZE) == NOTHING
        os.system(f"swapoff {swap}; swapon {swap}")
        before = events()["pswpin"]
        assert pagers.ask(1, "wrong", at[1], SIZE, 7) is None
        assert events()["pswpin"] == before
        assert pagers.faults(0, at[0], SIZE) == 0


@pytest.mark.usefixtures("swap", "aging")
def test_what_one_process_calls_cold_is_reclaimed_first() -> None:
    size = 4 * GRANULE
    with group() as cgroup, calls.memfd(size) as fd, Pagers(3) as pagers:
        at = pagers.map(fd, size)
        cgroup.add(pagers.pid(0))
        for n in range(3):
            pagers.ask(n, "stamp", at[n], size, 1)
        drain()
        # The second and the fourth granule, by who did not make them.
        for granule in (1, 3):
            pagers.do(1, "madvise", at[1] + granule * GRANULE, GRANULE, MADV_COLD)
        assert None not in pagers.frames(at, size)
        cgroup.reclaim(GRANULE)
        found = pagers.frames(at, size)
        hot, cold = (
            sum(found[granule * 512 : (granule + 1) * 512].count(None) for granule in granules)
            for granules in ((0, 2), (1, 3))
        )
        assert cold >= 400
        assert hot <= cold // 10
        assert pagers.ask(2, "wrong", at[2], size, 1) is None


@pytest.mark.usefixtures("swap", "aging")
def test_what_a_process_uses_stays_longer() -> None:
    """Though another one made all pages, and the cgroup that is reclaimed is not the user's."""
    # Enough besides that pages on their way to the disk, which are no gain yet, are not missed.
    size = 8 * GRANULE
    with group() as cgroup, calls.memfd(size) as fd, Pagers(3) as pagers:
        at = pagers.map(fd, size)
        cgroup.add(pagers.pid(0))
        for n in range(3):
            pagers.ask(n, "stamp", at[n], size, 1)
        drain()
        for _ in range(16):
            # With its links it loses what its CPU remembers, so that the access is seen in the tables.
            pagers.do(1, "madvise", at[1], GRANULE, MADV_DONTNEED)
            pagers.do(1, "touch", at[1], GRANULE)
            cgroup.reclaim(GRANULE // 8)
        found = pagers.frames(at, size)
        used, unused = found[:512].count(None), found[512:].count(None)
        assert unused >= 512
        # Were it no better off, it would have lost an eighth.
        assert used <= unused // 30
        assert pagers.ask(2, "wrong", at[2], size, 1) is None


def test_accesses_of_any_process_are_seen() -> None:
    """By rmap, which knows the host alone: /sys/kernel/mm/page_idle."""
    with calls.memfd(SIZE) as fd, Pagers(3) as pagers:
        at = pagers.map(fd, SIZE)
        for n in range(3):
            pagers.do(n, "store", at[n], SIZE)
        drain()
        found = present(pagers.frames(at, SIZE))
        for n in range(3):
            set_idle(found)
            assert all(idle(found))
            first = 100 * n + 500
            pagers.do(n, "madvise", at[n], SIZE, MADV_DONTNEED)
            pagers.do(n, "touch", at[n] + first * PAGE, 50 * PAGE)
            assert [page for page, old in enumerate(idle(found)) if not old] == list(range(first, first + 50))


@pytest.mark.usefixtures("swap")
@pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "shared"])
def test_mincore_is_the_files(tmpfs: Path, flags: int) -> None:
    """What of the file is in memory, whoever brought it there: the same for a guest as for others."""
    path = tmpfs / "file"
    with path.open("wb") as file:
        file.truncate(SIZE)
    with opened(path) as fd, Pagers(2) as pagers:
        at = pagers.map(fd, SIZE, flags=flags)
        for page in (0, 5, 511, 512, 1000):
            os.pwrite(fd, b"x", page * PAGE)
        pagers.do(0, "poke", at[0] + 700 * PAGE, 1)
        expected = "".join("1" if page in (0, 5, 511, 512, 700, 1000) else "0" for page in range(PAGES))
        for n in range(2):
            assert pagers.ask(n, "mincore", at[n], SIZE) == expected


#: Processes that store meanwhile; more than processors, so that some wait with what their CPU remembers.
WRITERS = 5


def nothing_lost(writers: Tally, fd: int, take: Callable[[], object], counter: str, pages: int) -> None:
    """``take`` is called until ``counter`` of /proc/vmstat has seen so many pages, while processes count up;
    each number arrives.
    """
    while not all(os.pread(fd, WRITERS * 8, (writers.pages - 1) * PAGE)[::8]):
        writers.check()
    before = events()[counter]
    while events()[counter] - before < pages:
        take()
        writers.check()
    counts = writers.end()
    data = os.pread(fd, writers.pages * PAGE, 0)
    assert [tallied(data, slot) for slot in range(WRITERS)] == [{count} for count in counts]


def test_a_lost_store_is_noticed(tally: Path) -> None:
    """What the tests below rely on: punch a hole where they store."""
    with calls.memfd(GRANULE) as fd, Tally(tally, fd, 96, WRITERS) as writers:

        def take() -> None:
            fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 70 * PAGE, PAGE)

        with pytest.raises(AssertionError, match=r"page 70, slot .*, 0 found"):
            nothing_lost(writers, fd, take, "pswpout", 1)


@pytest.mark.usefixtures("swap", "aging")
def test_no_store_is_lost_while_pages_are_paged_out(tally: Path) -> None:
    """Most come back before they are freed."""
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as at:

        def take() -> None:
            calls.touch(at, PAGE)
            calls.madvise(at, 96 * PAGE, MADV_PAGEOUT)

        with Tally(tally, fd, 96, WRITERS) as writers:
            nothing_lost(writers, fd, take, "pswpout", 1000)


@pytest.mark.usefixtures("swap", "aging")
def test_no_store_is_lost_while_a_cgroup_is_reclaimed(tally: Path) -> None:
    """Of the cgroup that the file's pages are charged to, whose processes store and bring them back."""
    with group() as cgroup, calls.memfd(GRANULE) as fd, Pagers(1) as pagers:
        cgroup.add(pagers.pid(0))
        pagers.do(0, "touch", pagers.map(fd, GRANULE)[0], GRANULE)
        # Pages that are used without a pause would be kept.
        with Tally(tally, fd, GRANULE // PAGE, WRITERS, busy=0) as writers:
            for pid in writers.pids:
                cgroup.add(pid)
            nothing_lost(writers, fd, lambda: cgroup.reclaim(64 * PAGE), "pswpin", 300)


def test_migration_is_seen_by_all() -> None:
    with movable() as memory, calls.memfd(SIZE) as fd, Pagers(3) as pagers:
        at = pagers.map(fd, SIZE)
        for n in range(3):
            pagers.ask(n, "stamp", at[n], SIZE, 3)
        for _ in range(2):
            before = pagers.frames(at, SIZE)
            memory.move()
            after = pagers.frames(at, SIZE)
            assert None not in after
            assert not set(before) & set(after)
        assert [pagers.faults(n, at[n], SIZE) for n in range(3)] == [0] * 3
        assert [pagers.ask(n, "wrong", at[n], SIZE, 3) for n in range(3)] == [None] * 3


def test_compaction_is_seen_by_all() -> None:
    with movable() as memory, calls.memfd(SIZE) as fd, calls.memfd(8 * SIZE) as other, Pagers(3) as pagers:
        # All that lies between is freed again: there is something to gain, and room behind these pages for
        # more than lies before them.
        piece = b"".join(bytes([page]) * PAGE for page in range(64))
        for first in range(0, SIZE, len(piece)):
            os.pwrite(fd, piece, first)
            os.pwrite(other, piece * 8, first * 8)
        os.ftruncate(other, 0)
        memory.collect_free()
        at = pagers.map(fd, SIZE)
        for n in range(3):
            pagers.do(n, "touch", at[n], SIZE)
        before = pagers.frames(at, SIZE)
        write(Path("/proc/sys/vm/compact_memory"), "1")
        after = pagers.frames(at, SIZE)
        assert None not in after
        assert sum(old != new for old, new in zip(before, after, strict=True)) >= PAGES // 4
        assert os.pread(fd, SIZE, 0) == piece * (SIZE // len(piece))
        assert [pagers.faults(n, at[n], SIZE) for n in range(3)] == [0] * 3


def test_no_store_is_lost_while_pages_migrate(tally: Path) -> None:
    # The processes' own pages are made before, so that they do not migrate: that would be flushed anyway.
    with calls.memfd(0) as fd, Tally(tally, fd, 96, WRITERS) as writers, movable() as memory:
        os.ftruncate(fd, GRANULE)
        nothing_lost(writers, fd, memory.move, "pgmigrate_success", 500)


def test_clean_pages_that_are_mapped_stay(ext4: Path) -> None:
    """drop_caches passes over them; what a process unlinks is mapped nevertheless, by the others."""
    path = ext4 / "file"
    path.write_bytes(bytes(SIZE))
    with opened(path) as fd, Pagers(2) as pagers:
        os.fsync(fd)
        at = pagers.map(fd, SIZE)
        for n in range(2):
            pagers.do(n, "touch", at[n], SIZE)
        before = pagers.frames(at, SIZE)
        assert None not in before
        drop_caches()
        os.posix_fadvise(fd, 0, SIZE, os.POSIX_FADV_DONTNEED)
        assert pagers.frames(at, SIZE) == before
        pagers.do(0, "madvise", at[0], SIZE, MADV_DONTNEED)
        drop_caches()
        assert frames(pagers.pid(1), at[1], SIZE) == before
        assert pagers.faults(0, at[0], SIZE) == calls.link_faults(at[0], SIZE)
        for n in range(2):
            pagers.do(n, "munmap", at[n], SIZE)
        drop_caches()
        with calls.mapped(SIZE, R, MAP_SHARED, fd) as look:
            assert not any(calls.mincore(look, SIZE))


def test_pages_of_a_file_on_disk_are_paged_out(ext4: Path) -> None:
    """Clean ones leave the page cache, dirty ones are written first; one process reads them again for all."""
    path = ext4 / "file"
    path.write_bytes(bytes(SIZE))
    with opened(path) as fd, Pagers(3) as pagers:
        at = pagers.map(fd, SIZE)
        for n in range(3):
            pagers.ask(n, "stamp", at[n], SIZE, 1)
        for flush in (True, False):
            if flush:
                os.fsync(fd)
            else:
                pagers.ask(2, "stamp", at[2], SIZE, 2)
            drain()
            pagers.do(1, "madvise", at[1], SIZE, MADV_PAGEOUT)
            found = pagers.frames(at, SIZE)
            assert found == NOTHING
            assert pagers.faults(0, at[0], SIZE) <= PAGES
            assert [pagers.faults(n, at[n], SIZE) for n in range(3)] == [0] * 3
            assert [pagers.ask(n, "wrong", at[n], SIZE, 2 - flush) for n in range(3)] == [None] * 3
