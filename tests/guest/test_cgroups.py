# SPDX-License-Identifier: MIT
"""Memory cgroups: who faults pays, for pages and for tables, and no limit is passed by way of a domain."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import calls
import cgroups
import pytest
from agents import Agent, Agents
from calls import GRANULE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, PAGE, RW, SHARED_PT, R

from held import settles, sharing
from ptshare.counters import SharingCounters
from ptshare.demo.errors import ProcessFailedError

#: Where a process has no table of its own at any level below the first.
HERE = 0x2000_0000_0000
FIXED = MAP_FIXED_NOREPLACE
MIB = 1 << 20
MADV_DONTNEED = 4

both = pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "shared"])


class Tenant(Agent):
    """A process in a cgroup."""

    def memfd(self, size: int) -> int:
        fd = os.memfd_create("guest-test")
        os.ftruncate(fd, size)
        return fd

    def map_each(self, fds: list[int], flags: int) -> None:
        for fd in fds:
            calls.mmap(GRANULE, RW, flags, fd)

    def stripes(self, addr: int, pages: int) -> None:
        """Give every other page a protection of its own."""
        for page in range(0, pages, 2):
            calls.mprotect(addr + page * PAGE, PAGE, R)

    def peek_each(self, addr: int, granules: int) -> None:
        """Load a byte of each granule."""
        for number in range(granules):
            ctypes.c_ubyte.from_address(addr + number * GRANULE).value  # noqa: B018


class Tenants(Agents):
    def __init__(self, count: int) -> None:
        super(Agents, self).__init__(count, Tenant)

    def ask(self, member: int, name: str, *arguments: object) -> Any:
        return self.call(name, *arguments, members=[member])[0]


@pytest.fixture
def one() -> Iterator[cgroups.Group]:
    with cgroups.group("one") as made:
        yield made


@pytest.fixture
def two() -> Iterator[cgroups.Group]:
    with cgroups.group("two") as made:
        yield made


@contextmanager
def on_disk(path: Path, size: int) -> Iterator[int]:
    """A file with blocks on the disk, and nothing of it in memory."""
    path.write_bytes(bytes(size))
    fd = os.open(path, os.O_RDWR)
    try:
        forget(fd)
        yield fd
    finally:
        os.close(fd)


def forget(fd: int) -> None:
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture(params=["memfd", "tmpfs", "ext4"])
def file(request: pytest.FixtureRequest) -> Iterator[int]:
    """A file of 2 granules with no page in memory."""
    if request.param == "ext4":
        with on_disk(request.getfixturevalue("ext4") / "file", 2 * GRANULE) as fd:
            yield fd
    elif request.param == "tmpfs":
        fd = os.open(request.getfixturevalue("tmpfs") / "file", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 2 * GRANULE)
        yield fd
        os.close(fd)
    else:
        with calls.memfd(2 * GRANULE) as fd:
            yield fd


def charges(group: cgroups.Group) -> tuple[int, int]:
    """Pages of files, and of tables."""
    return group.stat("file") // PAGE, group.stat("pagetables") // PAGE


@both
def test_who_faults_is_charged(file: int, one: cgroups.Group, two: cgroups.Group, flags: int) -> None:
    """Pages and tables go to the cgroup of the task that faults them in, and not to who attached first."""
    size = 2 * GRANULE
    with Tenants(2) as tenants:
        for member, group in enumerate((one, two)):
            group.enter(tenants.pid(member))
            tenants.do(member, "mmap", size, RW, flags | FIXED, file, 0, HERE)
        before = [charges(group) for group in (one, two)]

        def grown() -> list[tuple[int, int]]:
            now = [charges(group) for group in (one, two)]
            return [(a - b, c - d) for (a, c), (b, d) in zip(now, before, strict=True)]

        tenants.do(1, "store", HERE, size)
        # A PUD table, a PMD table and two of PTEs: the process's own, or the host's and its own upper ones.
        assert grown() == [(0, 0), (1024, 6 if flags == SHARED_PT else 4)]
        tenants.do(0, "store", HERE, size)
        assert grown() == [(0, 2 if flags == SHARED_PT else 4), (1024, 6 if flags == SHARED_PT else 4)]


@both
def test_faults_are_counted_for_who_takes_them(ext4: Path, one: cgroups.Group, flags: int) -> None:
    """Among them those that wait for the disk."""
    with on_disk(ext4 / "file", GRANULE) as fd, Tenants(1) as tenants:
        at = tenants.do(0, "mmap", GRANULE, R, flags, fd)
        one.enter(tenants.pid(0))
        tenants.do(0, "touch", at, GRANULE)
        assert one.stat("pgfault") > 0
        assert one.stat("pgmajfault") > 0


def test_a_domain_is_charged_to_who_founds_it(one: cgroups.Group, two: cgroups.Group) -> None:
    """The host mm, its PGD, its mapping: a process cannot have the kernel hold memory that nobody pays."""
    count = 64
    fds = [os.memfd_create("guest-test") for _ in range(count)]
    try:
        for fd in fds:
            os.ftruncate(fd, GRANULE)
        grown = {}
        with Tenants(3) as tenants:
            for member, name, group, flags in (
                (0, "ordinary", one, MAP_SHARED),
                (1, "founder", one, SHARED_PT),
                (2, "guest", two, SHARED_PT),
            ):
                group.enter(tenants.pid(member))
                before = group.stat("kernel")
                tenants.ask(member, "map_each", fds, flags)
                grown[name] = (group.stat("kernel") - before) / count
        # The mm and a page for its PGD; the mapping of a guest is like any other.
        assert grown["founder"] - grown["ordinary"] > PAGE + 1000, grown
        assert abs(grown["guest"] - grown["ordinary"]) < 500, grown
    finally:
        for fd in fds:
            os.close(fd)


def test_protections_are_charged_to_who_sets_them(one: cgroups.Group) -> None:
    """Each part of a mapping with a protection of its own is an object of the kernel's, in the host too."""
    grown = []
    with calls.memfd(GRANULE) as fd, Tenants(2) as tenants:
        for member, flags in enumerate((MAP_SHARED, SHARED_PT)):
            at = tenants.do(member, "mmap", GRANULE, RW, flags, fd)
            one.enter(tenants.pid(member))
            before = one.stat("kernel")
            tenants.ask(member, "stripes", at, 512)
            grown.append(one.stat("kernel") - before)
    assert grown[0] > 512 * 150
    assert abs(grown[1] - grown[0]) < grown[0] / 4, grown


# At the limit


def killed() -> AbstractContextManager[object]:
    return pytest.raises(ProcessFailedError, match="SIGKILL")


OUTSIDE, INSIDE, IDLE = range(3)


@both
def test_no_growth_beyond_the_limit(one: cgroups.Group, flags: int, idle: SharingCounters) -> None:
    """Memory that cannot be reclaimed: the one inside is killed, and leaves the domain whole."""
    size, limit = 8 * GRANULE, 8 * MIB
    kills = cgroups.oom_kills()
    with calls.memfd(size) as fd:
        with Tenants(2) as tenants:
            at = tenants.all_do("mmap", size, RW, flags, fd)
            one.enter(tenants.pid(INSIDE))
            one.limit(limit)
            with killed():
                tenants.do(INSIDE, "store", at[INSIDE], size, 7)
            assert one.peak() <= limit
            assert one.events("oom_kill") == cgroups.oom_kills() - kills == 1
            held = one.stat("file")
            assert limit / 2 < held <= limit

            # What was stored is there for others, and those outside can have more.
            assert tenants.do(OUTSIDE, "peek", at[OUTSIDE] + GRANULE) == 7
            tenants.do(OUTSIDE, "store", at[OUTSIDE], size, 8)
            tenants.do(OUTSIDE, "mprotect", at[OUTSIDE], size, R)
            assert tenants.do(OUTSIDE, "peek", at[OUTSIDE] + size - PAGE) == 8
            assert one.stat("file") == held
            assert cgroups.oom_kills() - kills == 1
        assert settles(sharing, idle)
    assert settles(lambda: (one.stat("file"), one.stat("pagetables")), (0, 0), 30)


@both
def test_populating_ends_at_the_limit(one: cgroups.Group, flags: int) -> None:
    """The kill hits the founder of the domain, in the middle of a system call."""
    size, limit = 8 * GRANULE, 8 * MIB
    with calls.memfd(size) as fd, Tenants(2) as tenants:
        at = tenants.all_do("mmap", size, RW, flags, fd)
        one.enter(tenants.pid(INSIDE))
        one.limit(limit)
        with killed():
            tenants.do(INSIDE, "madvise", at[INSIDE], size, calls.MADV_POPULATE_WRITE)
        assert one.peak() <= limit
        assert one.events("oom_kill") == 1
        assert tenants.error(OUTSIDE, "madvise", at[OUTSIDE], size, calls.MADV_POPULATE_WRITE) == ""
        assert tenants.faults(OUTSIDE, at[OUTSIDE], size) == 0


@both
def test_a_file_is_reclaimed_at_the_limit(ext4: Path, one: cgroups.Group, flags: int) -> None:
    """Memory that can be reclaimed: nobody is killed, the limit holds, and no byte is lost."""
    size, limit = 3 * GRANULE, 3 * MIB
    with on_disk(ext4 / "file", size) as fd, Tenants(2) as tenants:
        at = tenants.all_do("mmap", size, RW, flags, fd)
        one.enter(tenants.pid(INSIDE))
        one.limit(limit)
        tenants.do(INSIDE, "store", at[INSIDE], size, 3)
        assert one.peak() <= limit
        assert one.events("max") > 0
        assert one.events("oom_kill") == 0
        assert one.stat("pgsteal") > (size - limit) // PAGE
        assert tenants.do(INSIDE, "peek", at[INSIDE]) == tenants.do(OUTSIDE, "peek", at[OUTSIDE]) == 3
        forget(fd)
        assert set(os.pread(fd, size, 0)[::PAGE]) == {3}


@both
def test_tables_alone_reach_the_limit(ext4: Path, one: cgroups.Group, flags: int) -> None:
    """A page here and there in a sparse file: its pages can be reclaimed, the tables over them cannot."""
    count, limit = 512, MIB
    fd = os.open(ext4 / "file", os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, count * GRANULE)
        with Tenants(2) as tenants:
            at = tenants.all_do("mmap", count * GRANULE, RW, flags, fd)
            one.enter(tenants.pid(INSIDE))
            one.limit(limit)
            with killed():
                tenants.ask(INSIDE, "peek_each", at[INSIDE], count)
            assert one.events("oom_kill") == 1
            assert one.peak() <= limit
            # Shared ones outlive the process; an ordinary mapping's are gone with it.
            kept = one.stat("pagetables")
            assert kept > limit / 2 if flags == SHARED_PT else kept < limit / 2, kept
            tenants.ask(OUTSIDE, "peek_each", at[OUTSIDE], count)
            assert one.stat("pagetables") <= kept
        assert settles(lambda: one.stat("pagetables"), 0, 30)
    finally:
        os.close(fd)


@both
def test_who_fills_the_memory_is_killed(one: cgroups.Group, flags: int) -> None:
    """And not its neighbour, who has more memory of his own."""
    size, own = 24 * GRANULE, 8 * GRANULE
    with calls.memfd(size) as fd, Tenants(2) as tenants:
        for pid in (tenants.pid(member) for member in range(2)):
            one.enter(pid)
        neighbours = tenants.do(OUTSIDE, "mmap", own, RW, MAP_PRIVATE | MAP_ANONYMOUS)
        tenants.do(OUTSIDE, "store", neighbours, own)
        at = tenants.do(INSIDE, "mmap", size, RW, flags, fd)
        one.limit(size)
        with killed():
            tenants.do(INSIDE, "store", at, size)
        assert one.events("oom_kill") == 1
        assert tenants.do(OUTSIDE, "peek", neighbours) == 1


def _scores(tenants: Tenants, members: int) -> list[int]:
    """What the OOM killer would go by: two thirds of the thousandth parts of all memory, on top of 667."""
    return [int(Path(f"/proc/{tenants.pid(n)}/oom_score").read_text()) for n in range(members)]


def test_each_guest_answers_for_a_share() -> None:
    """Of pages and of tables, also where it has dropped its links to them."""
    granules = 1 << 15
    total = os.sysconf("SC_PHYS_PAGES")
    with calls.memfd(granules * GRANULE) as fd, Tenants(4) as tenants:
        before = _scores(tenants, 4)
        at = tenants.do(0, "mmap", granules * GRANULE, RW, SHARED_PT, fd)
        tenants.do(0, "store", at, granules * GRANULE, 1, GRANULE)
        # A page and a table for each granule.
        points = 2 * granules * 667 / total
        assert points > 16
        assert _scores(tenants, 1)[0] - before[0] == pytest.approx(points, abs=3)
        tenants.do(0, "madvise", at, granules * GRANULE, MADV_DONTNEED)
        assert _scores(tenants, 1)[0] - before[0] == pytest.approx(points, abs=3)
        for member in range(1, 4):
            tenants.do(member, "mmap", GRANULE, RW, SHARED_PT, fd)
        shares = [now - then for now, then in zip(_scores(tenants, 4), before, strict=True)]
        assert shares == [pytest.approx(points / 4, abs=3)] * 4


def test_each_cgroup_has_its_own_limit(one: cgroups.Group, two: cgroups.Group) -> None:
    """Two share a domain: what one has faulted in costs the other nothing, and its limit is its own."""
    half, limit = 4 * GRANULE, 12 * MIB
    with calls.memfd(4 * half) as fd, Tenants(2) as tenants:
        at = tenants.all_do("mmap", 4 * half, RW, SHARED_PT, fd)
        for member, group in enumerate((one, two)):
            group.enter(tenants.pid(member))
            group.limit(limit)
        tenants.do(0, "store", at[0], half, 1)
        tenants.do(1, "store", at[1] + half, half, 2)
        before = one.stat("file"), two.stat("file")
        assert [size // PAGE for size in before] == [half // PAGE] * 2
        # Both together are more than the limit of each.
        tenants.do(0, "store", at[0] + half, half, 3)
        tenants.do(1, "store", at[1], half, 4)
        assert (one.stat("file"), two.stat("file")) == before
        with killed():
            tenants.do(0, "store", at[0] + 2 * half, half, 5)
        assert (one.events("oom_kill"), two.events("oom_kill")) == (1, 0)
        assert two.stat("file") == before[1]
        assert tenants.do(1, "peek", at[1] + 2 * half) == 5
        tenants.do(1, "store", at[1] + 4 * half - GRANULE, GRANULE, 6)
        assert two.stat("file") == before[1] + GRANULE


def test_a_charge_stays_when_its_tasks_have_gone() -> None:
    """With the cgroup that is removed; it ends for good when the pages and the tables are freed."""
    size = 2 * GRANULE
    with cgroups.group("parent") as parent:
        with cgroups.group("one", parent) as one, cgroups.group("two", parent) as two, Tenants(1) as tenants:
            fd = tenants.ask(0, "memfd", 2 * size)
            at = tenants.do(0, "mmap", 2 * size, RW, SHARED_PT, fd)
            one.enter(tenants.pid(0))
            tenants.do(0, "store", at, size, 1)
            before = charges(one)
            assert before[0] == size // PAGE
            two.enter(tenants.pid(0))
            assert charges(one) == before
            one.remove()
            assert parent.dying() == 1

            # The mapping is as good as ever; what comes new is charged where the process is now.
            assert tenants.faults(0, at, size) == 0
            tenants.do(0, "store", at, 2 * size, 2)
            assert (parent.dying(), two.stat("file"), parent.stat("file")) == (1, size, 2 * size)
        # The process is gone, and with it file, domain and both cgroups; the kernel frees them by and by.
        with cgroups.group("three", parent) as three, Tenants(1) as tenants:
            three.enter(tenants.pid(0))
            for cpu in range(os.cpu_count() or 1):
                # A CPU keeps the cgroup that it has charged last, until it charges another.
                os.sched_setaffinity(tenants.pid(0), {cpu})
                at = tenants.do(0, "mmap", MIB, RW, MAP_PRIVATE | MAP_ANONYMOUS)
                tenants.do(0, "store", at, MIB)
            assert settles(parent.dying, 0, 60)
        assert settles(lambda: charges(parent), (0, 0), 60)
