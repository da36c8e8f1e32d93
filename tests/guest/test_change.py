# SPDX-License-Identifier: MIT
"""Unmapping, moving, forking and dying: whole granules or nothing, and the others notice nothing."""

import os
import signal
import socket
import time

import calls
import pytest
from agents import Agents
from calls import GIB, GRANULE, MAP_FIXED, MREMAP_FIXED, MREMAP_MAYMOVE, PAGE, RW, SHARED_PT, SPARSELY, R

from held import settles, sharing
from ptshare.counters import SharingCounters

SIZE = 4 * GRANULE


def test_munmap_detaches_the_caller_alone() -> None:
    with calls.memfd(SIZE) as fd, Agents(2) as agents:
        at = agents.all_do("mmap", SIZE, RW, SHARED_PT, fd)
        for n in range(2):
            agents.do(n, "store", at[n], SIZE, 4)
        agents.do(0, "munmap", at[0] + GRANULE, 2 * GRANULE)
        assert [agents.do(0, "peek", at[0] + g * GRANULE) for g in range(4)] == [4, None, None, 4]
        assert agents.faults(1, at[1], SIZE) == 0
        agents.do(0, "munmap", at[0], SIZE)
        assert agents.faults(1, at[1], SIZE) == 0
        # And attaches again, anywhere.
        again = agents.do(0, "mmap", SIZE, RW, SHARED_PT, fd)
        assert agents.faults(0, again, SIZE) <= 4
        assert agents.do(0, "peek", again + GRANULE) == 4


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (PAGE, GRANULE),
        (0, GRANULE + PAGE),
        (GRANULE - PAGE, PAGE),
        (GRANULE, SIZE - GRANULE - PAGE),
        (-GRANULE, GRANULE + PAGE),
        (SIZE - PAGE, GRANULE),
    ],
)
def test_parts_of_granules_are_refused(idle: SharingCounters, start: int, length: int) -> None:
    """With EINVAL, and nothing has changed: neither by munmap nor by MAP_FIXED."""
    with calls.memfd(SIZE) as fd:
        area = calls.free_area(SIZE + 2 * GRANULE)
        flags = calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | MAP_FIXED
        calls.mmap(SIZE + 2 * GRANULE, RW, flags, addr=area)
        calls.store(area, SIZE + 2 * GRANULE, 1)
        at = area + GRANULE
        calls.mmap(SIZE, RW, SHARED_PT | MAP_FIXED, fd, addr=at)
        calls.store(at, SIZE, 2)
        before = calls.shared_regions()
        assert calls.error_of(calls.munmap, at + start, length) == "EINVAL"
        assert calls.shared_regions() == before
        assert calls.error_of(calls.mmap, length, RW, flags, addr=at + start) == "EINVAL"
        assert calls.shared_regions() == before
        assert {calls.peek(at + offset) for offset in range(0, SIZE, GRANULE // 2)} == {2}
        assert calls.peek(area) == 1
        assert sharing().guests == idle.guests + 1
        calls.munmap(area, SIZE + 2 * GRANULE)


def test_map_fixed_over_whole_granules() -> None:
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        calls.store(at, SIZE, 2)
        calls.mmap(GRANULE, RW, calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | MAP_FIXED, addr=at + GRANULE)
        calls.store(at + GRANULE, GRANULE, 3)
        assert [calls.peek(at + g * GRANULE) for g in range(4)] == [2, 3, 2, 2]
        assert os.pread(fd, 1, GRANULE) == b"\2"


@pytest.mark.parametrize("size", [SIZE, GIB])
def test_mremap(size: int) -> None:
    """Moving, shrinking and growing keep the sharing."""
    with calls.memfd(2 * GIB) as fd, Agents(2) as agents:
        at = [agents.do(n, "mmap", size, RW, SHARED_PT, fd) for n in range(2)]
        agents.do(0, "store", at[0], size, 5, SPARSELY)
        granules = size // GRANULE
        assert agents.faults(1, at[1], size, SPARSELY) <= (2 if size == GIB else granules)

        target = agents.do(1, "free_area", 2 * size)
        moved = agents.do(1, "mremap", at[1], size, size, MREMAP_MAYMOVE | MREMAP_FIXED, target)
        assert moved == target
        assert agents.do(1, "peek", at[1]) is None
        assert agents.faults(1, moved, size, SPARSELY) <= (2 if size == GIB else granules)

        assert agents.do(1, "mremap", moved, size, size // 2, 0) == moved
        assert agents.do(1, "peek", moved + size // 2) is None
        assert agents.do(1, "peek", moved) == 5
        assert agents.faults(0, at[0], size, SPARSELY) == 0

        assert agents.do(1, "mremap", moved, size // 2, size, 0) == moved
        assert agents.faults(1, moved, size, SPARSELY) <= granules
        grown = agents.do(1, "mremap", moved, size, size + GRANULE, MREMAP_MAYMOVE)
        agents.do(0, "poke", at[0], 6)
        assert agents.do(1, "peek", grown) == 6
        assert agents.do(1, "peek", grown + size) == 0


def test_mremap_by_its_own_choice_keeps_the_address_congruent() -> None:
    with calls.memfd(2 * GIB) as fd, calls.mapped(GIB, RW, SHARED_PT, fd) as at:
        blocker = (
            calls.mmap(
                GRANULE, R, calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED_NOREPLACE, addr=at + GIB
            )
            if not calls.regions(at + GIB, at + GIB + GRANULE)
            else 0
        )
        moved = calls.mremap(at, GIB, GIB + GRANULE, MREMAP_MAYMOVE)
        assert moved != at
        assert moved % GIB == 0
        calls.munmap(moved, GIB + GRANULE)
        if blocker:
            calls.munmap(blocker, GRANULE)


@pytest.mark.parametrize(
    ("old", "new", "flags", "shift"),
    [
        (SIZE, SIZE - PAGE, 0, 0),
        (SIZE, SIZE + PAGE, MREMAP_MAYMOVE, 0),
        (GRANULE + PAGE, GRANULE + PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, 0),
        (SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, PAGE),
        (PAGE, 2 * GRANULE, MREMAP_MAYMOVE, 0),
    ],
)
def test_mremap_of_parts_of_granules_is_refused(old: int, new: int, flags: int, shift: int) -> None:
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        calls.store(at, SIZE, 2)
        target = calls.free_area(2 * SIZE) + shift
        before = calls.shared_regions()
        assert calls.error_of(calls.mremap, at, old, new, flags, target) == "EINVAL"
        assert calls.shared_regions() == before
        assert calls.peek(at + SIZE - 1) == 0
        assert calls.peek(at + SIZE - PAGE) == 2


def test_mremap_duplicates() -> None:
    """An old length of 0 maps the same again, as on any shared mapping."""
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        calls.store(at, SIZE, 2)
        other = calls.mremap(at, 0, SIZE, MREMAP_MAYMOVE)
        assert other != at
        calls.poke(other, 3)
        assert calls.present(other + 511 * PAGE)
        assert calls.peek(at) == 3
        calls.munmap(other, SIZE)


def test_fork_attaches_the_child(idle: SharingCounters) -> None:
    with calls.memfd(GIB) as fd, calls.mapped(GIB, RW, SHARED_PT, fd) as at:
        calls.touch(at, GIB, SPARSELY)
        with Agents(4) as agents:
            assert sharing().guests == idle.guests + 5
            assert sharing().domains == idle.domains + 1
            for n in range(4):
                assert agents.faults(n, at, GIB, SPARSELY) <= 1
            agents.do(0, "poke", at + 5, 1)
            assert calls.peek(at + 5) == 1
            # A child of a child, which leaves by its end.
            assert agents.call("fork_and", "store", at, GRANULE, 8) == [0] * 4
        assert sharing().guests == idle.guests + 1


def test_fork_copies_no_table() -> None:
    with calls.memfd(GIB) as fd, calls.mapped(GIB, RW, SHARED_PT, fd) as at:
        calls.touch(at, GIB, SPARSELY)
        before = sharing().tables
        with Agents(1) as agents:
            assert agents.call("shared_kib") == [GIB // 1024]
            assert agents.faults(0, at, GIB, SPARSELY) == 0
            assert sharing().tables == before


def test_fork_links_no_granules() -> None:
    """It would take time for each of them."""
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        calls.touch(at, SIZE)
        with Agents(1) as agents:
            assert agents.call("shared_kib") == [0]
            assert 1 <= agents.faults(0, at, SIZE) <= 2


def test_mmap_and_fork_link_what_is_there_and_no_more() -> None:
    """Of four whole GiBs and a part of one, two are in use; a mapping that is not congruent gets no link."""
    size = 4 * GIB + GRANULE
    with calls.memfd(size) as fd, calls.mapped(size, RW, SHARED_PT, fd) as at, Agents(2) as agents:
        for gib in (1, 3, 4):
            calls.poke(at + gib * GIB, 1)
        assert agents.call("shared_kib") == [0, 0]
        whole = agents.do(0, "mmap", size, RW, SHARED_PT, fd)
        agents.do(1, "mmap", size, RW, SHARED_PT | MAP_FIXED, fd, 0, calls.free_area(size) + GRANULE)
        assert agents.call("shared_kib") == [2 * GIB // 1024, 0]
        assert [agents.faults(0, whole + gib * GIB, PAGE) for gib in (1, 3, 4, 2)] == [0, 0, 1, 1]
        with Agents(1) as children:
            assert children.call("shared_kib") == [3 * GIB // 1024]
            assert [children.faults(0, at + gib * GIB, PAGE) for gib in (1, 2, 3)] == [0, 0, 0]


def test_mappings_not_for_children(idle: SharingCounters) -> None:
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        calls.madvise(at, SIZE, 10)  # MADV_DONTFORK
        with Agents(1) as agents:
            assert sharing().guests == idle.guests + 1
            assert agents.do(0, "peek", at) is None
        calls.madvise(at, SIZE, 11)  # MADV_DOFORK
        with Agents(1) as agents:
            assert agents.do(0, "peek", at) == 0


def test_exec_detaches(idle: SharingCounters) -> None:
    here, there = socket.socketpair()  # ends with the exec
    with calls.memfd(SIZE) as fd, here:
        pid = os.fork()
        if pid == 0:
            calls.store(calls.mmap(SIZE, RW, SHARED_PT, fd), SIZE)
            there.send(b"mapped")
            there.recv(2)
            os.execv("/bin/sleep", ["sleep", "600"])
        there.close()
        try:
            assert here.recv(6) == b"mapped"
            assert sharing().guests == idle.guests + 1
            here.send(b"go")
            assert here.recv(1) == b""
            assert sharing() == idle
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_killed_at_any_moment(idle: SharingCounters) -> None:
    """Processes die in the middle of mapping, faulting, protecting and unmapping; the others go on."""
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        for round_ in range(60):
            pids = []
            for _ in range(4):
                pid = os.fork()
                if pid == 0:
                    while True:
                        mine = calls.mmap(SIZE, RW, SHARED_PT, fd)
                        calls.touch(mine, SIZE)
                        calls.mprotect(mine, SIZE, R)
                        calls.mprotect(mine, SIZE, RW)
                        calls.munmap(mine, SIZE)
                pids.append(pid)
            time.sleep(0.002 * (round_ % 10))
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for pid in pids:
                os.waitpid(pid, 0)
            calls.mprotect(at, SIZE, RW)
            assert calls.poke(at, round_)
        assert settles(lambda: sharing().guests, idle.guests + 1)


def test_links_come_and_go_under_every_walk(idle: SharingCounters) -> None:
    """One thread drops links while others fault, and walk the tables in each way there is."""
    import threading

    with calls.memfd(GIB) as fd, calls.mapped(GIB, RW, SHARED_PT, fd) as at:
        calls.touch(at, GIB, SPARSELY)
        stop = threading.Event()
        seen: set[int | None] = set()
        spot = at + 100 * GRANULE

        def fault() -> None:
            while not stop.is_set():
                seen.add(calls.peek(spot))

        def walk() -> None:
            with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
                while not stop.is_set():
                    os.pread(pagemap.fileno(), GIB // PAGE * 8, at // PAGE * 8)

        def look() -> None:
            while not stop.is_set():
                calls.mincore(at, GIB)

        def follow() -> None:
            while not stop.is_set():
                seen.add(calls.read_by_gup(spot))

        threads = [threading.Thread(target=target) for target in (fault, walk, look, follow, follow)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            calls.madvise(at, GIB, 4)  # MADV_DONTNEED
            calls.madvise(spot, GRANULE, 4)
        stop.set()
        for thread in threads:
            thread.join()
        assert seen == {0}
