# SPDX-License-Identifier: MIT
"""Faults and tables: what a guest pays, and what it gets when an access cannot be had."""

import os
import signal
import time
from pathlib import Path

import calls
import pytest
from agents import Agents
from calls import GIB, GRANULE, MAP_FIXED, PAGE, RW, SHARED_PT, SPARSELY, R
from cgroups import group
from files import opened
from paging import MADV_POPULATE_READ

from held import sharing
from ptshare import counters


def test_a_warm_gib_costs_no_fault_and_four_tables() -> None:
    with calls.memfd(GIB) as fd, Agents(2) as agents:
        first = agents.do(0, "mmap", GIB, RW, SHARED_PT, fd)
        agents.do(0, "touch", first, GIB, SPARSELY)
        before = agents.own_pages(1)
        second = agents.do(1, "mmap", GIB, RW, SHARED_PT, fd)
        assert first % GIB == second % GIB == 0
        assert agents.faults(1, second, GIB, SPARSELY) == 0
        assert agents.own_pages(1) - before <= 4
        assert agents.call("shared_kib") == [GIB // 1024] * 2


def test_who_came_before_the_tables_takes_one_fault_for_a_gib() -> None:
    with calls.memfd(GIB) as fd, Agents(2) as agents:
        at = [agents.do(n, "mmap", GIB, RW, SHARED_PT, fd) for n in range(2)]
        agents.do(0, "touch", at[0], GIB, SPARSELY)
        assert agents.faults(1, at[1], GIB, SPARSELY) == 1


@pytest.mark.parametrize(("shift", "offset"), [(GRANULE, 0), (0, GRANULE)], ids=["address", "offset"])
def test_a_fault_links_sixteen_granules_where_a_gib_cannot_be_linked(shift: int, offset: int) -> None:
    with calls.memfd(GIB + GRANULE) as fd, Agents(2) as agents:
        area = calls.free_area(GIB + GRANULE) + shift
        for n in range(2):
            agents.do(n, "mmap", GIB, RW, SHARED_PT | MAP_FIXED, fd, offset, area)
        agents.do(0, "touch", area, GIB, SPARSELY)
        before = agents.own_pages(1)
        # One for each aligned 32 MiB of addresses; there may be a part of one at each end.
        assert agents.faults(1, area, GIB, SPARSELY) <= 33
        assert agents.call("shared_kib")[1] == GIB // 1024
        # PMD tables of its own, and no table of PTEs.
        assert agents.own_pages(1) - before <= 4


def test_what_is_around_is_linked_no_further_than_mapping_and_tables_go() -> None:
    """Of 16 granules of addresses a guest has the middle, between an ordinary mapping and another guest."""
    with calls.memfd(32 * GRANULE) as fd, calls.memfd(16 * GRANULE) as other, Agents(2) as agents:
        # The file goes on at both ends of what the guest has of it, and has tables there.
        whole = agents.do(0, "mmap", 32 * GRANULE, RW, SHARED_PT, fd)
        agents.do(0, "store", whole, 32 * GRANULE, 7)
        agents.do(0, "madvise", agents.do(0, "mmap", 16 * GRANULE, RW, SHARED_PT, other), 16 * GRANULE, 22)
        area = calls.free_area(64 * GRANULE) + 16 * GRANULE
        agents.do(1, "mmap", 4 * GRANULE, RW, calls.MAP_SHARED | MAP_FIXED, fd, 0, area)
        agents.do(1, "mmap", 8 * GRANULE, RW, SHARED_PT | MAP_FIXED, fd, 8 * GRANULE, area + 4 * GRANULE)
        agents.do(1, "mmap", 4 * GRANULE, RW, SHARED_PT | MAP_FIXED, other, 0, area + 12 * GRANULE)
        before = agents.own_pages(1)
        assert agents.do(1, "peek", area + 6 * GRANULE) == 7
        assert agents.call("shared_kib")[1] == 8 * GRANULE // 1024
        assert agents.own_pages(1) - before <= 3
        assert agents.do(1, "peek", area + 12 * GRANULE) == 0
        assert agents.call("shared_kib")[1] == 12 * GRANULE // 1024
        # Its own table of PTEs, with a fault for what is around a page, and none of the guests'.
        assert agents.do(1, "peek", area) == 7
        assert agents.own_pages(1) - before <= 4


@pytest.mark.parametrize("granules", [1, 511])
def test_who_has_a_part_of_a_gib_is_not_linked_to_the_whole(granules: int) -> None:
    """What others have touched of the GiB stays out of reach of who has mapped less of it."""
    with calls.memfd(GIB) as fd, Agents(2) as agents:
        whole = agents.do(0, "mmap", GIB, RW, SHARED_PT, fd)
        for granule in (0, granules - 1, granules, 511):
            agents.do(0, "store", whole + granule * GRANULE, PAGE, 7)
        part = calls.free_area(GIB)
        agents.do(1, "mmap", granules * GRANULE, RW, SHARED_PT | MAP_FIXED, fd, 0, part)
        assert part % GIB == 0
        assert agents.do(1, "peek", part) == 7
        assert agents.call("shared_kib")[1] == GRANULE // 1024
        assert agents.do(1, "peek", part + granules * GRANULE) is None


def test_the_gib_link_follows_what_the_vma_becomes() -> None:
    """Unmapping a part of a linked GiB leaves the rest right; links of 2 MiB take its place."""
    with calls.memfd(GIB) as fd, Agents(1) as agents:
        at = agents.do(0, "mmap", GIB, RW, SHARED_PT, fd)
        agents.do(0, "store", at, 4 * GRANULE, 5)
        assert agents.call("shared_kib") == [GIB // 1024]
        agents.do(0, "munmap", at + GRANULE, GRANULE)
        assert agents.call("shared_kib") == [0]
        assert agents.do(0, "peek", at) == 5
        assert agents.do(0, "peek", at + 2 * GRANULE) == 5
        assert agents.do(0, "peek", at + GRANULE) is None
        assert agents.call("shared_kib") == [3 * GRANULE // 1024]
        # An ordinary mapping in the hole has tables of its own, and does not show in the file.
        agents.do(
            0, "mmap", GRANULE, RW, calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | MAP_FIXED, -1, 0, at + GRANULE
        )
        agents.do(0, "store", at + GRANULE, GRANULE, 6)
        assert os.pread(fd, 1, GRANULE) == b"\5"


def test_a_table_made_later_needs_no_further_link() -> None:
    with calls.memfd(GIB) as fd, Agents(2) as agents:
        at = [agents.do(n, "mmap", GIB, RW, SHARED_PT, fd) for n in range(2)]
        for n in range(2):
            agents.do(n, "peek", at[n])
        agents.do(0, "touch", at[0] + 100 * GRANULE, GRANULE)
        assert agents.faults(1, at[1] + 100 * GRANULE, GRANULE) == 0


def test_sparse_windows_cost_what_they_touch() -> None:
    with calls.memfd(64 * GIB) as fd, calls.mapped(64 * GIB, RW, SHARED_PT, fd) as at:
        before = sharing().tables
        for gib in range(0, 64, 16):
            assert calls.poke(at + gib * GIB + 5 * GRANULE, 1)
        # For each a table of PTEs and a PMD table, and one PUD table for all.
        assert sharing().tables - before == 4 + 4 + 1


def signal_of(action: object, *arguments: object) -> int:
    """The signal that ends a process which does this, 0 if none does."""
    assert callable(action)
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGSEGV, signal.SIGBUS):
            signal.signal(number, signal.SIG_DFL)
        action(*arguments)
        os._exit(0)
    return max(0, -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def test_past_the_end_of_the_file(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(bytes(GRANULE + PAGE + 1))
    with opened(path) as fd, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
        assert signal_of(calls.touch, at, GRANULE + 2 * PAGE) == 0
        assert signal_of(calls.touch, at + GRANULE + 2 * PAGE, PAGE) == signal.SIGBUS
        assert signal_of(calls.store, at + GRANULE + 2 * PAGE, PAGE) == signal.SIGBUS
        # The others go on, and see the file grow.
        assert calls.peek(at) == 0
        os.ftruncate(fd, 2 * GRANULE)
        assert signal_of(calls.touch, at, 2 * GRANULE) == 0


def test_no_tables_beyond_the_end_of_the_file(directory: Path) -> None:
    """They would stay for as long as anybody has the file mapped."""
    path = directory / "file"
    path.write_bytes(bytes(PAGE))
    with opened(path, os.O_RDONLY) as fd, calls.mapped(GRANULE, R, SHARED_PT, fd) as at:
        calls.touch(at, PAGE)
        before = sharing().tables
        for offset in (GRANULE, GIB, 600 * GIB):
            with calls.mapped(GRANULE, R, SHARED_PT, fd, offset) as beyond:
                assert calls.peek(beyond) is None
                assert calls.error_of(calls.madvise, beyond, PAGE, MADV_POPULATE_READ) == "EFAULT"
        assert calls.peek(at + PAGE) is None
        assert sharing().tables == before


def test_truncation_takes_the_pages_from_everyone() -> None:
    with calls.memfd(2 * GRANULE) as fd, Agents(3) as agents:
        at = [agents.do(n, "mmap", 2 * GRANULE, RW, SHARED_PT, fd) for n in range(3)]
        for n in range(3):
            agents.do(n, "store", at[n], 2 * GRANULE, n + 1)
        os.ftruncate(fd, GRANULE)
        for n in range(3):
            assert agents.do(n, "peek", at[n] + GRANULE) is None
            assert agents.do(n, "peek", at[n]) == 3
        os.ftruncate(fd, 2 * GRANULE)
        for n in range(3):
            assert agents.do(n, "peek", at[n] + GRANULE) == 0


def test_a_hole_is_punched_for_everyone() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with calls.memfd(GRANULE) as fd, Agents(2) as agents:
        at = [agents.do(n, "mmap", GRANULE, RW, SHARED_PT, fd) for n in range(2)]
        for n in range(2):
            agents.do(n, "store", at[n], GRANULE, 9)
        keep_size, punch_hole = 1, 2
        call = libc.fallocate(fd, keep_size | punch_hole, ctypes.c_long(4 * PAGE), ctypes.c_long(4 * PAGE))
        assert call == 0
        for n in range(2):
            assert [agents.do(n, "peek", at[n] + page * PAGE) for page in (3, 4, 7, 8)] == [9, 0, 0, 9]


def test_segmentation_faults(tmpfs: Path) -> None:
    path = tmpfs / "file"
    path.write_bytes(bytes(GRANULE))
    with opened(path, os.O_RDONLY) as fd, calls.mapped(GRANULE, R, SHARED_PT, fd) as at:
        calls.touch(at, GRANULE)
        assert signal_of(calls.store, at, PAGE) == signal.SIGSEGV
        assert not calls.poke(at, 1)
        # Not only the first time.
        assert signal_of(calls.store, at, PAGE) == signal.SIGSEGV
        assert calls.peek(at) == 0


def test_the_code_of_a_segmentation_fault_is_that_of_an_access() -> None:
    """SEGV_ACCERR, as on an ordinary mapping, and not SEGV_MAPERR."""
    for flags in (calls.MAP_SHARED, SHARED_PT):
        with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, flags, fd) as at:
            calls.store(at, GRANULE)
            calls.mprotect(at, GRANULE, R)
            assert calls.si_code_of_store(at) == 2


def test_dont_need_drops_the_callers_links_alone() -> None:
    with calls.memfd(4 * GRANULE) as fd, Agents(2) as agents:
        at = [agents.do(n, "mmap", 4 * GRANULE, RW, SHARED_PT, fd) for n in range(2)]
        for n in range(2):
            agents.do(n, "store", at[n], 4 * GRANULE, 7)
        # Two whole granules and parts of two others.
        agents.do(0, "madvise", at[0] + PAGE, 4 * GRANULE - 2 * PAGE, 4)
        assert agents.call("shared_kib") == [2 * GRANULE // 1024, 4 * GRANULE // 1024]
        assert agents.faults(1, at[1], 4 * GRANULE) == 0
        assert agents.faults(0, at[0], 4 * GRANULE) <= 2
        assert agents.do(0, "peek", at[0] + 2 * GRANULE) == 7


def test_writes_reach_the_disk(ext4: Path) -> None:
    """Write, fsync, write again through another process: the second write is found dirty too."""
    path = ext4 / "file"
    path.write_bytes(bytes(GRANULE))
    fd = os.open(path, os.O_RDWR)
    try:
        with Agents(2) as agents:
            at = [agents.do(n, "mmap", GRANULE, RW, SHARED_PT, fd) for n in range(2)]
            for n in range(2):
                agents.do(n, "touch", at[n], GRANULE)
            for number, n in ((1, 0), (2, 1), (3, 0)):
                agents.do(n, "store", at[n], GRANULE, number)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    assert set(path.read_bytes()[::PAGE]) == {3}


def test_a_load_from_the_disk_keeps_no_lock(ext4: Path) -> None:
    """A plain load is tried under the lock of the VMA; where it has to wait, that is given back before the
    next try. Else the munmap would wait for ever.
    """
    path = ext4 / "file"
    path.write_bytes(bytes(GRANULE))
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        pid = os.fork()
        if pid == 0:
            at = calls.mmap(GRANULE, RW, SHARED_PT, fd)
            calls.touch(at, GRANULE)
            calls.munmap(at, GRANULE)
            os._exit(0)
        deadline = time.monotonic() + 30
        while (ended := os.wait4(pid, os.WNOHANG))[0] == 0:
            assert time.monotonic() < deadline, "the process does not end"
            time.sleep(0.01)
        assert ended[1] == 0
        assert ended[2].ru_majflt > 0
    finally:
        os.close(fd)


def test_the_faulting_process_is_charged() -> None:
    """Pages that a guest makes count for its memory cgroup, though the tables' mm has no owner."""
    with calls.memfd(4 * GRANULE) as fd, group("charge") as charged, Agents(1) as agents:
        charged.enter(agents.pid(0))
        at = agents.do(0, "mmap", 4 * GRANULE, RW, SHARED_PT, fd)
        # Not memory.current: a processor charges 64 pages ahead, and what it has not used of them is in it.
        before = charged.stat("shmem")
        agents.do(0, "store", at, 4 * GRANULE)
        assert charged.stat("shmem") - before == 4 * GRANULE


def test_faults_are_counted_once() -> None:
    """In the process's count, a granule's fault is one, and not one more for the host's."""
    with calls.memfd(64 * GRANULE) as fd, calls.mapped(64 * GRANULE, RW, SHARED_PT, fd) as at:
        calls.peek(at)
        before = counters.minor_faults()
        for granule in range(64):
            calls.peek(at + granule * GRANULE)
        # Fewer than half of the interpreter's own, where 63 would be counted twice.
        assert 63 <= counters.minor_faults() - before < 63 + 31
