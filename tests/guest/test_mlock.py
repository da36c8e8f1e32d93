# SPDX-License-Identifier: MIT
"""Locked pages of shared tables: they stay until the last guest that locked them unlocks them or goes."""

import os
import random
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import calls
import pytest
import raw
from agents import Agents
from calls import GRANULE, NONE, PAGE, RW, SHARED_PT
from pagebits import flagged, frames
from paging import drain

from held import settles
from ptshare.demo.crew import Crew

#: Documentation/admin-guide/mm/pagemap.rst does not tell this one: include/linux/kernel-page-flags.h
_MLOCKED = 1 << 33
_MLOCK2 = 325  # x86-64
_MLOCK_ONFAULT = 1
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_MADV_PAGEOUT = 21
_GRANULE_PAGES = GRANULE // PAGE


def _locked_kib(pid: int | str = "self") -> int:
    match = re.search(r"^VmLck:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def _mlocked(at: int, granules: int = 1) -> list[int]:
    """Of each granule, how many of its pages the kernel keeps out of reclaim; all are present."""
    # What has been unlocked is marked until the processor that did it comes to it, in batches.
    drain()
    return [flagged(frames(at + n * GRANULE, GRANULE), _MLOCKED) for n in range(granules)]


def _whole(*granules: bool) -> list[int]:
    return [_GRANULE_PAGES * locked for locked in granules]


def test_the_last_one_unlocks() -> None:
    with (
        calls.memfd(GRANULE) as fd,
        calls.mapped(GRANULE, RW, SHARED_PT, fd) as at,
        Agents(2) as agents,
    ):
        there = agents.all_do("mmap", GRANULE, RW, SHARED_PT, fd)
        agents.do(0, "mlock", there[0], GRANULE)
        assert _locked_kib(agents.pid(0)) == GRANULE >> 10
        # Nobody of the others touched a page: to lock is to bring in.
        calls.touch(at, PAGE)
        assert _mlocked(at) == _whole(True)
        agents.do(1, "mlock", there[1], GRANULE)
        agents.do(0, "munlock", there[0], GRANULE)
        assert (_locked_kib(agents.pid(0)), _locked_kib(agents.pid(1))) == (0, GRANULE >> 10)
        assert _mlocked(at) == _whole(True)
        agents.do(1, "munmap", there[1], GRANULE)
        assert _mlocked(at) == _whole(False)


def test_being_killed_unlocks() -> None:
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as at:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            calls.mlock(at, GRANULE)
            os.write(writer, b"x")
            signal.pause()
        os.read(reader, 1)
        os.close(reader)
        os.close(writer)
        calls.touch(at, GRANULE)
        assert _mlocked(at) == _whole(True)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert settles(lambda: _mlocked(at), _whole(False))


def test_each_range_by_who_locked_it() -> None:
    """Windows at different addresses and offsets; what is locked is a range of the file."""
    with (
        calls.memfd(3 * GRANULE) as fd,
        calls.mapped(3 * GRANULE, RW, SHARED_PT, fd) as at,
        Agents(2) as agents,
    ):
        calls.store(at, 3 * GRANULE)
        low = agents.do(0, "mmap", 2 * GRANULE, RW, SHARED_PT, fd, 0)
        high = agents.do(1, "mmap", 2 * GRANULE, RW, SHARED_PT, fd, GRANULE)
        agents.do(0, "mlock", low, 2 * GRANULE)
        assert _mlocked(at, 3) == _whole(True, True, False)
        agents.do(1, "mlock", high, GRANULE)
        agents.do(0, "munlock", low, 2 * GRANULE)
        assert _mlocked(at, 3) == _whole(False, True, False)
        agents.do(1, "mlock", high + GRANULE, GRANULE)
        assert _mlocked(at, 3) == _whole(False, True, True)
        # A part of what is locked, away by munmap.
        agents.do(1, "munmap", high, GRANULE)
        assert _mlocked(at, 3) == _whole(False, False, True)
        assert _locked_kib(agents.pid(1)) == GRANULE >> 10


def test_locked_pages_are_not_reclaimed(ext4: Path) -> None:
    """What MADV_PAGEOUT takes from the page cache, but for the locked granule."""
    path = ext4 / "file"
    path.write_bytes(b"x" * (2 * GRANULE))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    try:
        with calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at, Agents(1) as agents:
            there = agents.do(0, "mmap", 2 * GRANULE, RW, SHARED_PT, fd)
            agents.do(0, "mlock", there + GRANULE, GRANULE)
            calls.touch(at, 2 * GRANULE)
            drain()
            for _ in range(2):
                calls.madvise(at, 2 * GRANULE, _MADV_PAGEOUT)
            present = [calls.present(at + n * PAGE) for n in range(2 * _GRANULE_PAGES)]
            assert sum(present[:_GRANULE_PAGES]) == 0
            assert sum(present[_GRANULE_PAGES:]) == _GRANULE_PAGES
    finally:
        os.close(fd)


def test_other_ways_to_lock() -> None:
    with calls.memfd(2 * GRANULE) as fd, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
        calls.touch(at, PAGE)

        def child(lock: Callable[[], object]) -> tuple[list[int], int]:
            """What is locked, and counted, while a child has it locked. It maps the file anew."""
            readers = os.pipe(), os.pipe()
            pid = os.fork()
            if pid == 0:
                calls.munmap(at, 2 * GRANULE)
                lock()
                os.write(readers[0][1], b"x")
                os.read(readers[1][0], 1)
                os._exit(0)
            os.read(readers[0][0], 1)
            for granule in (at, at + GRANULE):  # link
                calls.touch(granule, PAGE)
            found = flagged(
                [
                    f
                    for n in range(2 * _GRANULE_PAGES)
                    if calls.present(at + n * PAGE)
                    for f in frames(at + n * PAGE, PAGE)
                ],
                _MLOCKED,
            )
            count = _locked_kib(pid)
            os.write(readers[1][1], b"x")
            os.waitpid(pid, 0)
            for pair in readers:
                for end in pair:
                    os.close(end)
            return [found], count

        def onfault() -> None:
            there = calls.mmap(GRANULE, RW, SHARED_PT, fd)
            raw.syscall(_MLOCK2, there, GRANULE, _MLOCK_ONFAULT)
            calls.touch(there, 8 * PAGE)

        def future() -> None:
            calls.mlockall(_MCL_FUTURE)
            calls.mmap(GRANULE, RW, SHARED_PT, fd, GRANULE)

        def grown() -> None:
            there = calls.free_area(2 * GRANULE)
            calls.mmap(GRANULE, RW, SHARED_PT | calls.MAP_FIXED | calls.MAP_LOCKED, fd, 0, there)
            calls.mremap(there, GRANULE, 2 * GRANULE, 0)

        def moved() -> None:
            there = calls.mmap(GRANULE, RW, SHARED_PT | calls.MAP_LOCKED, fd, 0)
            calls.mremap(
                there,
                GRANULE,
                2 * GRANULE,
                calls.MREMAP_MAYMOVE | calls.MREMAP_FIXED,
                calls.free_area(2 * GRANULE),
            )

        # What was present before onfault() is locked with it: the one page touched above is in the first 8.
        assert child(onfault) == ([8], GRANULE >> 10)
        assert child(lambda: calls.mmap(GRANULE, RW, SHARED_PT | calls.MAP_LOCKED, fd)) == (
            [_GRANULE_PAGES],
            GRANULE >> 10,
        )
        locked, kib = child(future)
        assert locked == [_GRANULE_PAGES]
        assert kib >= GRANULE >> 10
        assert child(grown) == ([2 * _GRANULE_PAGES], 2 * GRANULE >> 10)
        assert child(moved) == ([2 * _GRANULE_PAGES], 2 * GRANULE >> 10)
        # And nothing is left of all that.
        assert _mlocked(at, 2) == _whole(False, False)


def test_mlockall_and_munlockall() -> None:
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as at, Agents(1) as agents:
        there = agents.do(0, "mmap", GRANULE, RW, SHARED_PT, fd)
        agents.do(0, "mlockall", _MCL_CURRENT)
        calls.touch(at, PAGE)
        assert _mlocked(at) == _whole(True)
        assert agents.do(0, "peek", there) == 0
        agents.do(0, "munlockall")
        assert _mlocked(at) == _whole(False)
        assert _locked_kib(agents.pid(0)) == 0


def test_fork_locks_nothing() -> None:
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as at:
        calls.mlock(at, GRANULE)
        with Agents(1) as agents:
            assert _locked_kib(agents.pid(0)) == 0
            calls.munlock(at, GRANULE)
            assert _mlocked(at) == _whole(False)
            assert agents.do(0, "peek", at) == 0


def test_the_limit_counts_for_each() -> None:
    with calls.memfd(2 * GRANULE) as fd, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:

        def errors() -> list[str]:
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (GRANULE, GRANULE))
                os.setresuid(65534, 65534, 65534)
                found = [
                    calls.error_of(calls.mlock, at, 2 * GRANULE),
                    calls.error_of(calls.mlock, at, GRANULE),
                    calls.error_of(calls.mlock, at + GRANULE, GRANULE),
                    calls.error_of(calls.mmap, GRANULE, RW, SHARED_PT | calls.MAP_LOCKED, fd),
                ]
                os.write(writer, ",".join(found).encode())
                os._exit(0)
            os.close(writer)
            with open(reader, encoding="ascii") as file:
                text = file.read()
            os.waitpid(pid, 0)
            return text.split(",")

        # What one has locked already takes nothing from another's limit.
        calls.mlock(at, 2 * GRANULE)
        assert errors() == ["ENOMEM", "", "ENOMEM", "EAGAIN"]
        assert _mlocked(at, 2) == _whole(True, True)


def test_whole_granules_or_nothing() -> None:
    with calls.memfd(2 * GRANULE) as fd, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
        calls.store(at, 2 * GRANULE)
        assert calls.error_of(calls.mlock, at + PAGE, PAGE) == "EINVAL"
        assert _locked_kib() == 0
        calls.mlock(at, 2 * GRANULE)
        assert calls.error_of(calls.munlock, at, PAGE) == "EINVAL"
        assert _mlocked(at, 2) == _whole(True, True)
        assert _locked_kib() == 2 * GRANULE >> 10


def test_what_cannot_be_accessed_cannot_be_brought_in() -> None:
    """As of an ordinary mapping: ENOMEM, and yet it counts as locked."""
    for flags in (calls.MAP_SHARED, SHARED_PT):
        with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, flags, fd) as at:
            calls.mprotect(at, GRANULE, NONE)
            assert calls.error_of(calls.mlock, at, GRANULE) == "ENOMEM"
            assert _locked_kib() == GRANULE >> 10


@pytest.mark.parametrize(
    ("prot", "flags"),
    [
        pytest.param(calls.W, calls.MAP_SHARED, id="write-ordinary"),
        pytest.param(calls.W, SHARED_PT, id="write-shared"),
        pytest.param(calls.X, SHARED_PT, id="execute-shared"),
    ],
)
def test_what_cannot_be_read_can_be_brought_in(prot: int, flags: int) -> None:
    """By mlock, MAP_POPULATE and MAP_LOCKED.

    Of ordinary memory that can be executed alone a protection key keeps it, where the processor has any.
    """
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, prot, flags, fd) as at:
        calls.mlock(at, GRANULE)
        assert _mlocked(at) == _whole(True)
    for more in (calls.MAP_POPULATE, calls.MAP_LOCKED):
        with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, prot, flags | more, fd) as at:
            assert all(calls.present(at + page * PAGE) for page in range(_GRANULE_PAGES))
    # Where it has become so by another's call.
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW | calls.X, flags, fd) as at:
        calls.mprotect(at + PAGE, PAGE, prot)
        calls.mlock(at, GRANULE)
        assert _mlocked(at) == _whole(True)


def test_what_grows_into_another_is_locked() -> None:
    """Moved to the end of a locked guest it becomes a part of that, with what it grows by."""
    with calls.memfd(3 * GRANULE) as fd, calls.mapped(3 * GRANULE, RW, SHARED_PT, fd) as at:
        calls.store(at, 3 * GRANULE)
        other = calls.mmap(GRANULE, RW, SHARED_PT | calls.MAP_LOCKED, fd, GRANULE)
        there = calls.free_area(3 * GRANULE)
        calls.mmap(GRANULE, RW, SHARED_PT | calls.MAP_FIXED | calls.MAP_LOCKED, fd, 0, there)
        fixed = calls.MREMAP_MAYMOVE | calls.MREMAP_FIXED
        calls.mremap(other, GRANULE, 2 * GRANULE, fixed, there + GRANULE)
        assert _locked_kib() == 3 * GRANULE >> 10
        assert _mlocked(at, 3) == _whole(True, True, True)
        calls.munmap(there, 3 * GRANULE)
        assert _mlocked(at, 3) == _whole(False, False, False)


class _Locker:
    """Locks and unlocks parts, as others do at the same time."""

    def run(self, fd: int, granules: int, rounds: int) -> int:
        choose = random.Random(os.getpid())
        at = calls.mmap(granules * GRANULE, RW, SHARED_PT, fd)
        for _ in range(rounds):
            first = choose.randrange(granules)
            length = choose.randrange(1, granules - first + 1) * GRANULE
            choose.choice([calls.mlock, calls.munlock])(at + first * GRANULE, length)
        calls.munlock(at, granules * GRANULE)
        calls.mlock(at, GRANULE)
        return os.getpid()


@pytest.mark.guest_timeout(600)
def test_many_at_once() -> None:
    """Four processes lock and unlock parts in disorder; what each has at the end is what counts."""
    granules = 4
    with calls.memfd(granules * GRANULE) as fd, calls.mapped(granules * GRANULE, RW, SHARED_PT, fd) as at:
        calls.store(at, granules * GRANULE)
        with Crew(4, _Locker) as crew:
            pids = crew.call("run", fd, granules, 60)
            assert _mlocked(at, granules) == _whole(True, False, False, False)
            assert [_locked_kib(pid) for pid in pids] == [GRANULE >> 10] * 4
        assert _mlocked(at, granules) == _whole(False, False, False, False)
