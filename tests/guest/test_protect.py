# SPDX-License-Identifier: MIT
"""Protection belongs to the domain: one mprotect(2) is everybody's, and nobody gains a right by it."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import calls
import pytest
from agents import Agents
from calls import GRANULE, NONE, PAGE, RW, SHARED_PT, R, W, X

SIZE = 2 * GRANULE


def test_one_call_for_all() -> None:
    with calls.memfd(SIZE) as fd, Agents(8) as agents:
        at = agents.all_do("mmap", SIZE, RW, SHARED_PT, fd)
        for n in range(8):
            agents.do(n, "store", at[n], SIZE, n)
        agents.do(3, "mprotect", at[3], SIZE, R)
        assert [agents.do(n, "poke", at[n] + GRANULE, 1) for n in range(8)] == [False] * 8
        assert [agents.do(n, "peek", at[n] + GRANULE) for n in range(8)] == [7] * 8
        agents.do(5, "mprotect", at[5], SIZE, NONE)
        assert [agents.do(n, "peek", at[n] + GRANULE) for n in range(8)] == [None] * 8
        agents.do(0, "mprotect", at[0], SIZE, RW)
        assert [agents.do(n, "poke", at[n] + GRANULE, n) for n in range(8)] == [True] * 8


def test_page_by_page_and_across_windows() -> None:
    """What is protected is a range of the file: guests find it at their own addresses."""
    with calls.memfd(4 * GRANULE) as fd, Agents(2) as agents:
        low = agents.do(0, "mmap", 2 * GRANULE, RW, SHARED_PT, fd, 0)
        high = agents.do(1, "mmap", 2 * GRANULE, RW, SHARED_PT, fd, GRANULE)
        agents.do(0, "mprotect", low + GRANULE + 3 * PAGE, 2 * PAGE, R)
        for page, allowed in ((2, True), (3, False), (4, False), (5, True)):
            assert agents.do(1, "poke", high + page * PAGE, 1) == allowed
            assert agents.do(0, "poke", low + GRANULE + page * PAGE, 1) == allowed
        # The end of one window is the middle of the other.
        agents.do(1, "mprotect", high, 2 * GRANULE, NONE)
        assert agents.do(0, "peek", low) == 0
        assert agents.do(0, "peek", low + GRANULE) is None


def test_who_comes_later_gets_what_is_in_force() -> None:
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        calls.store(at, SIZE)
        calls.mprotect(at, GRANULE, R)
        with calls.mapped(SIZE, RW, SHARED_PT, fd) as late:
            assert not calls.poke(late, 2)
            assert calls.poke(late + GRANULE, 2)
            assert [r.access for r in calls.regions(late, late + SIZE)] == ["r--s", "rw-s"]


def test_execution() -> None:
    code = b"\xb8\x2a\x00\x00\x00\xc3"  # mov eax, 42; ret
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as at:
        os.pwrite(fd, code, 0)
        calls.touch(at, PAGE)

        def run() -> int:
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGSEGV, signal.SIG_DFL)
                os._exit(ctypes.CFUNCTYPE(ctypes.c_int)(at)())
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        assert run() == -signal.SIGSEGV
        calls.mprotect(at, PAGE, R | X)
        assert run() == 42
        calls.mprotect(at, PAGE, RW)
        assert run() == -signal.SIGSEGV


def test_no_right_beyond_the_descriptor(tmpfs: Path) -> None:
    path = tmpfs / "file"
    path.write_bytes(b"x" * SIZE)
    with Agents(3) as agents:
        reader, other = agents.call("open", str(path), os.O_RDONLY, members=[0, 1])
        writer = agents.call("open", str(path), os.O_RDWR, members=[2])[0]
        at = [agents.do(n, "mmap", SIZE, R, SHARED_PT, fd) for n, fd in ((0, reader), (1, other))]
        agents.do(2, "store", agents.do(2, "mmap", SIZE, RW, SHARED_PT, writer), SIZE, 7)
        before = agents.call("regions", at[0], at[0] + SIZE, members=[0])
        for prot in (RW, W, NONE, R | X, R):
            assert agents.error(0, "mprotect", at[0], SIZE, prot) == "EACCES"
        assert agents.call("regions", at[0], at[0] + SIZE, members=[0]) == before
        for n in (0, 1):
            assert agents.do(n, "peek", at[n]) == 7
            assert not agents.do(n, "poke", at[n], 1)


def test_protection_keys() -> None:
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        calls.store(at, SIZE)
        assert calls.error_of(calls.pkey_mprotect, at, SIZE, R, 3) == "EINVAL"
        assert calls.poke(at, 1)
        calls.pkey_mprotect(at, SIZE, R, -1)
        assert not calls.poke(at, 1)
        try:
            key = calls.pkey_alloc()
        except OSError:
            return  # A processor without keys, of which only -1 is allocated.
        try:
            assert calls.error_of(calls.pkey_mprotect, at, SIZE, RW, key) == "EINVAL"
            assert not calls.poke(at, 1)
            calls.pkey_mprotect(at, SIZE, RW, 0)
            assert calls.poke(at, 1)
        finally:
            calls.pkey_free(key)


def test_bad_ranges() -> None:
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        before = calls.regions(at, at + SIZE)
        assert calls.error_of(calls.mprotect, at + 1, PAGE, R) == "EINVAL"
        assert calls.error_of(calls.mprotect, at, PAGE, 0x40) == "EINVAL"
        assert calls.regions(at, at + SIZE) == before


def test_a_range_of_guests_and_others() -> None:
    """One call over an ordinary mapping, a guest and a hole: what comes before the hole is changed."""
    with calls.memfd(SIZE) as fd:
        area = calls.free_area(3 * GRANULE)
        calls.mmap(GRANULE, RW, calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED, addr=area)
        calls.mmap(GRANULE, RW, SHARED_PT | calls.MAP_FIXED, fd, addr=area + GRANULE)
        calls.store(area, 2 * GRANULE)
        assert calls.error_of(calls.mprotect, area, 3 * GRANULE, R) == "ENOMEM"
        assert not calls.poke(area, 1)
        assert not calls.poke(area + GRANULE, 1)
        calls.munmap(area, 2 * GRANULE)


def test_kernel_accesses_obey() -> None:
    """What goes through get_user_pages(): process_vm_readv and its kin, MADV_POPULATE."""
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        calls.store(at, SIZE, 3)
        assert calls.read_by_gup(at) is not None
        assert calls.write_by_gup(at)
        calls.mprotect(at, GRANULE, R)
        assert calls.read_by_gup(at) is not None
        assert not calls.write_by_gup(at)
        assert calls.write_by_gup(at + GRANULE)
        assert calls.error_of(calls.madvise, at, GRANULE, calls.MADV_POPULATE_WRITE) == "EINVAL"
        calls.mprotect(at, GRANULE, NONE)
        assert calls.read_by_gup(at) is None
        assert calls.error_of(calls.madvise, at, GRANULE, calls.MADV_POPULATE_READ) == "EINVAL"


#: Under lockdep a round takes many times as long, most of it for other things.
ROUNDS = 200 if Path("/proc/lockdep").exists() else 1000


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that stores into shared pages without a pause: tests/guest/storm.c."""
    program = tmp_path_factory.mktemp("storm") / "storm"
    source = Path(__file__).with_name("storm.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", str(program), str(source)], check=True)
    return program


@pytest.fixture
def writers(storm: Path) -> Iterator[int]:
    """64 processes that store into page 0 of a file, slot by slot, at full speed; the file's descriptor."""
    with calls.memfd(GRANULE) as fd:
        os.set_inheritable(fd, True)
        children = [subprocess.Popen([str(storm), str(fd), str(n)], pass_fds=[fd]) for n in range(64)]
        try:
            yield fd
        finally:
            for child in children:
                child.kill()
            for child in children:
                child.wait()


def test_not_one_write_gets_through(writers: int) -> None:
    """64 processes store at full speed on all CPUs; once mprotect has returned, none of them does."""
    with calls.mapped(GRANULE, RW, SHARED_PT, writers) as at:
        slots = memoryview((ctypes.c_uint64 * 64).from_address(at)).cast("B").cast("Q")

        def wait_for_writers(count: int) -> None:
            before = slots.tolist()
            deadline = time.monotonic() + 60
            while sum(a != b for a, b in zip(before, slots.tolist(), strict=True)) < count:
                assert time.monotonic() < deadline, "the writers do not write"
                time.sleep(0.0002)

        wait_for_writers(64)
        # The others share what time this process leaves.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        for _ in range(ROUNDS):
            # One on each of the other CPUs has the page in its TLB; the rest had it when they ran last.
            wait_for_writers(3)
            calls.mprotect(at, PAGE, R)
            before = slots.tolist()
            # Long enough for each CPU to store some thousand times, if it could.
            time.sleep(0.0005)
            assert slots.tolist() == before
            calls.mprotect(at, PAGE, RW)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
