# SPDX-License-Identifier: MIT
"""madvise(2), mincore(2), mbind(2), move_pages(2) do to a guest what they do to ordinary shared memory."""

import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import calls
import pagebits
import pytest
import raw
from agents import Agents
from calls import GRANULE, MAP_SHARED, PAGE, RW, SHARED_PT, R
from onlookers import MPOL_DEFAULT, PAGES, SIZE, Onlookers, eventually, mbind, noted
from paging import drain

from held import sharing
from ptshare import counters
from ptshare.counters import SharingCounters

NOBODY = 65534

#: include/uapi/linux/mempolicy.h
MPOL_BIND = 2

ADVICE = {
    "NORMAL": 0,
    "RANDOM": 1,
    "SEQUENTIAL": 2,
    "WILLNEED": 3,
    "DONTNEED": 4,
    "FREE": 8,
    "DONTFORK": 10,
    "DOFORK": 11,
    "MERGEABLE": 12,
    "UNMERGEABLE": 13,
    "HUGEPAGE": 14,
    "NOHUGEPAGE": 15,
    "DONTDUMP": 16,
    "DODUMP": 17,
    "WIPEONFORK": 18,
    "KEEPONFORK": 19,
    "COLD": 20,
    "PAGEOUT": 21,
    "POPULATE_READ": 22,
    "POPULATE_WRITE": 23,
    "DONTNEED_LOCKED": 24,
    "COLLAPSE": 25,
    "GUARD_INSTALL": 102,
    "GUARD_REMOVE": 103,
    "unknown": 50,
}
#: There are no huge pages in a domain.
REFUSED = {"HUGEPAGE", "COLLAPSE"}
#: What is noted in the mapping, and so splits it if it is for a part.
NOTED = {"RANDOM", "SEQUENTIAL", "DONTFORK", "NOHUGEPAGE", "DONTDUMP"}


@pytest.fixture(params=["memory", "disk"])
def fd(request: pytest.FixtureRequest) -> Iterator[int]:
    """A file in memory, and one on a disk, of zeros."""
    if request.param == "memory":
        with calls.memfd(SIZE) as found:
            yield found
        return
    path = request.getfixturevalue("ext4") / "file"
    path.write_bytes(bytes(SIZE))
    found = os.open(path, os.O_RDWR)
    try:
        yield found
    finally:
        os.close(found)


def advised(at: int, advice: str) -> tuple[object, set[str]]:
    """What comes of an advice, and what it changes in VmFlags."""
    before = noted(at)
    result = raw.outcome(calls.madvise, at, SIZE, ADVICE[advice])
    return result, noted(at) ^ before


@pytest.mark.parametrize("opened", [os.O_RDWR, os.O_RDONLY], ids=["read-write", "read-only"])
def test_advice(fd: int, opened: int) -> None:
    """Each is answered as by an ordinary mapping, noted where that notes it, and loses no data."""
    again = os.open(f"/proc/self/fd/{fd}", opened)
    prot = RW if opened == os.O_RDWR else R
    with (
        calls.mapped(SIZE, RW, MAP_SHARED, fd) as content,
        calls.mapped(SIZE, prot, MAP_SHARED, again) as ordinary,
        calls.mapped(SIZE, prot, SHARED_PT, again) as guest,
    ):
        calls.store(content, SIZE, 6)
        for at in (ordinary, guest):
            calls.touch(at, SIZE)
        seen = {}
        for advice in ADVICE:
            if advice in REFUSED:
                assert advised(guest, advice) == ("EINVAL", set())
                continue
            seen[advice] = advised(ordinary, advice), advised(guest, advice)
            assert {calls.peek(guest + page * PAGE) for page in range(0, PAGES, 31)} == {6}, advice
        assert {name: guest for name, (_, guest) in seen.items()} == {
            name: by for name, (by, _) in seen.items()
        }
        assert {name for name, (_, (_, changed)) in seen.items() if changed} >= NOTED
    os.close(again)


def test_advice_for_a_part_of_a_granule() -> None:
    """What is noted in a mapping is for whole granules: else it is refused, and nothing has changed."""
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        calls.store(at, SIZE)
        before = calls.shared_regions(), noted(at)
        for name, advice in ADVICE.items():
            result = raw.outcome(calls.madvise, at + PAGE, GRANULE, advice)
            if name in NOTED:
                assert result == "EINVAL", name
            elif name in ("WILLNEED", "DONTNEED", "COLD", "PAGEOUT", "POPULATE_READ", "POPULATE_WRITE"):
                assert result is None, name
            assert (calls.shared_regions(), noted(at)) == before, name
        assert calls.error_of(calls.madvise, at, GRANULE, ADVICE["DONTDUMP"]) == ""
        assert "dd" in noted(at)
        assert "dd" not in noted(at + GRANULE)


#: What is said of a part of a mapping, and what takes it back.
SAID: dict[str, tuple[Callable[[int, int], object], Callable[[int, int], object]]] = {
    "RANDOM": (lambda at, size: calls.madvise(at, size, 1), lambda at, size: calls.madvise(at, size, 0)),
    "DONTFORK": (lambda at, size: calls.madvise(at, size, 10), lambda at, size: calls.madvise(at, size, 11)),
    "DONTDUMP": (lambda at, size: calls.madvise(at, size, 16), lambda at, size: calls.madvise(at, size, 17)),
    "mlock": (calls.mlock, calls.munlock),
    "mbind": (
        lambda at, size: mbind(at, size, MPOL_BIND, 1),
        lambda at, size: mbind(at, size, MPOL_DEFAULT, 0),
    ),
}


@pytest.mark.parametrize("said", SAID)
def test_no_part_of_a_granule_goes_to_a_neighbour(said: str, idle: SharingCounters) -> None:
    """Two guests side by side, of which one could take a part of the other: the same is said of both.

    A guest that began or ended within a granule would lose its link without giving it back.
    """
    say, take_back = SAID[said]
    with calls.memfd(SIZE) as fd:
        at = calls.mmap(SIZE, RW, SHARED_PT, fd)
        calls.touch(at, SIZE)
        say(at, GRANULE)
        border = at + GRANULE
        two = calls.shared_regions()
        linked = counters.process_tables().shared_kib
        parts = [
            (take_back, border - PAGE, PAGE),  # to the right one
            (take_back, border - PAGE, PAGE + GRANULE),
            (say, border, PAGE),  # to the left one
        ]
        for call, start, size in parts:
            assert calls.error_of(call, start, size) == "EINVAL"
            assert calls.shared_regions() == two
        take_back(at, GRANULE)
        say(border, GRANULE)
        say(at, GRANULE)
        assert counters.process_tables().shared_kib == linked
        calls.munmap(at, GRANULE)
        assert counters.process_tables().shared_kib == (SIZE - GRANULE) >> 10
        calls.munmap(border, SIZE - GRANULE)
        assert counters.process_tables().shared_kib == 0
        assert sharing().tables == idle.tables


def in_cache(fd: int) -> int:
    """How many pages of a file are in the page cache."""
    with calls.mapped(SIZE, R, MAP_SHARED, fd) as at:
        return sum(byte & 1 for byte in calls.mincore(at, SIZE))


def brought_into_cache(fd: int) -> int:
    """The same when what is being read has been: nothing has come for a second."""
    found, since = in_cache(fd), time.monotonic()
    while time.monotonic() < since + 1:
        time.sleep(0.05)
        if (now := in_cache(fd)) != found:
            found, since = now, time.monotonic()
    return found


def forget(fd: int) -> None:
    """Have the page cache empty of a file that nobody maps."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert in_cache(fd) == 0


@pytest.fixture
def on_disk(ext4: Path) -> Iterator[int]:
    path = ext4 / "file"
    path.write_bytes(os.urandom(SIZE))
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("advice", ["NORMAL", "RANDOM", "SEQUENTIAL"])
def test_how_the_file_will_be_read(on_disk: int, advice: str) -> None:
    """What a fault reads ahead goes by the advice of the process that faults."""
    brought = []
    for flags in (MAP_SHARED, SHARED_PT):
        forget(on_disk)
        with calls.mapped(SIZE, RW, flags, on_disk) as at:
            calls.madvise(at, SIZE, ADVICE[advice])
            calls.peek(at + 100 * PAGE)
            brought.append(brought_into_cache(on_disk))
    assert brought[1] == brought[0]
    assert (brought[0] == 1) == (advice == "RANDOM")


def test_what_will_be_needed_is_read(on_disk: int) -> None:
    forget(on_disk)
    with calls.mapped(SIZE, RW, SHARED_PT, on_disk) as at:
        calls.madvise(at + PAGE, 50 * PAGE, ADVICE["WILLNEED"])
        assert eventually(lambda: calls.mincore(at + PAGE, 50 * PAGE) == b"\1" * 50)
        assert brought_into_cache(on_disk) < PAGES


def test_one_process_populates_for_all() -> None:
    with calls.memfd(SIZE) as fd, Agents(2) as agents:
        at = agents.all_do("mmap", SIZE, RW, SHARED_PT, fd)
        agents.do(0, "madvise", at[0], GRANULE, ADVICE["POPULATE_READ"])
        agents.do(0, "madvise", at[0] + GRANULE, GRANULE, ADVICE["POPULATE_WRITE"])
        assert agents.faults(0, at[0], SIZE) == 0
        assert agents.faults(1, at[1], SIZE) == calls.link_faults(at[1], SIZE)


def test_mincore(on_disk: int) -> None:
    """What of the file is in memory, also without a link to its tables. Who neither owns the file nor may
    write it is told that all is.
    """
    forget(on_disk)
    expected = {3, 200, 511, 512, 700}
    for page in expected:
        os.pwrite(on_disk, b"x" * PAGE, page * PAGE)
    reading = os.open(f"/proc/self/fd/{on_disk}", os.O_RDONLY)
    with Onlookers(1) as them:
        own = [them.do(0, "mmap", SIZE, R, flags, reading) for flags in (MAP_SHARED, SHARED_PT)]
        with calls.mapped(SIZE, R, SHARED_PT, on_disk) as at:
            assert {page for page, byte in enumerate(calls.mincore(at, SIZE)) if byte & 1} == expected
        for user, told in ((0, len(expected)), (NOBODY, PAGES)):
            them.call("become", user)
            assert [them.ask(0, "in_memory", at, SIZE) for at in own] == [told] * 2
    os.close(reading)


def test_another_process_advises() -> None:
    """process_madvise(2), with what is allowed to others."""
    answers = []
    for flags in (MAP_SHARED, SHARED_PT):
        with calls.memfd(SIZE) as fd, Agents(1) as agents:
            at = agents.do(0, "mmap", SIZE, RW, flags, fd)
            agents.do(0, "store", at, SIZE, 8)
            drain()
            pidfd = os.pidfd_open(agents.pid(0))
            found = {}
            for name, advice in ADVICE.items():
                vector = raw.Vector(at, SIZE)
                found[name] = raw.outcome(raw.syscall, raw.PROCESS_MADVISE, pidfd, vector, 1, advice, 0)
                if name == "PAGEOUT":
                    found["present"] = agents.do(0, "present", at + 7 * PAGE)
            os.close(pidfd)
            assert agents.do(0, "peek", at + 7 * PAGE) == 8
            answers.append(found)
    ordinary, guest = answers
    assert guest.pop("COLLAPSE") == "EINVAL"
    del ordinary["COLLAPSE"]
    assert guest == ordinary
    assert guest["COLD"] == SIZE


def test_who_may_not_write_calls_nothing_cold(tmpfs: Path) -> None:
    """MADV_COLD, like MADV_PAGEOUT, is for who might write to the file: it is others who use the pages."""
    path = tmpfs / "file"
    path.write_bytes(bytes(SIZE))
    fd = os.open(path, os.O_RDONLY)
    with Onlookers(2) as them:
        at = them.all_do("mmap", SIZE, R, SHARED_PT, fd)

        def referenced() -> str:
            return pagebits.smaps(at[0], them.pid(0))["Referenced"]

        for n in range(2):
            them.do(n, "touch", at[n], SIZE)
        drain()
        assert referenced() == f"{SIZE >> 10} kB"
        them.call("become", NOBODY, members=[1])
        them.do(1, "madvise", at[1], SIZE, ADVICE["COLD"])
        assert referenced() == f"{SIZE >> 10} kB"
        them.do(0, "madvise", at[0], SIZE, ADVICE["COLD"])
        assert referenced() == "0 kB"
    os.close(fd)


# Memory policies


MPOL_PREFERRED, MPOL_INTERLEAVE = 1, 3
MPOL_F_NODE, MPOL_F_ADDR = 1, 2
MPOL_MF_MOVE, MPOL_MF_MOVE_ALL = 2, 4


def policy(at: int) -> int:
    mode = ctypes.create_string_buffer(4)
    raw.syscall(raw.GET_MEMPOLICY, mode, None, 0, at, MPOL_F_ADDR)
    return int.from_bytes(mode.raw, "little")


def test_the_policy_of_memory_is_the_files() -> None:
    """Of a file in memory: whoever maps it finds the policy that mbind(2) has set through any mapping."""
    for flags in (MAP_SHARED, SHARED_PT):
        with (
            calls.memfd(SIZE) as fd,
            calls.mapped(SIZE, RW, flags, fd) as at,
            calls.mapped(SIZE, RW, MAP_SHARED, fd) as ordinary,
            calls.mapped(SIZE, RW, SHARED_PT, fd) as guest,
        ):
            mbind(at, GRANULE, MPOL_INTERLEAVE, 1)
            for found in (at, ordinary, guest):
                assert (policy(found), policy(found + GRANULE)) == (MPOL_INTERLEAVE, MPOL_DEFAULT)


def test_the_policy_of_a_part_of_a_granule() -> None:
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as at:
        assert raw.outcome(mbind, at, PAGE, MPOL_INTERLEAVE, 1) == "EINVAL"
        assert policy(at) == MPOL_DEFAULT


@pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "guest"])
def test_where_pages_are(flags: int) -> None:
    """move_pages(2) tells the nodes of pages that are present; get_mempolicy(2) has them present first."""
    with calls.memfd(SIZE) as fd, calls.mapped(SIZE, RW, flags, fd) as at:
        calls.poke(at, 1)
        where, status = (ctypes.c_uint64 * 2)(at, at + 300 * PAGE), (ctypes.c_int * 2)()

        def nodes() -> list[int]:
            raw.syscall(raw.MOVE_PAGES, 0, 2, ctypes.addressof(where), None, ctypes.addressof(status), 0)
            return list(status)

        assert nodes() == [0, -errno.ENOENT]
        node = ctypes.create_string_buffer(b"\xff" * 4, 4)
        raw.syscall(raw.GET_MEMPOLICY, node, None, 0, at + 300 * PAGE, MPOL_F_NODE | MPOL_F_ADDR)
        assert node.raw == bytes(4)
        assert nodes() == [0, 0]


@pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "guest"])
def test_who_may_move_pages(flags: int) -> None:
    """mbind(2) moves what only the caller maps; what others map too, it moves for root and with
    MPOL_MF_MOVE_ALL. To have no policy moves pages from any node, to the same if there is no other.
    """
    with calls.memfd(SIZE) as fd, Onlookers(2) as them:
        at = them.all_do("mmap", SIZE, RW, flags, fd)
        them.do(0, "store", at[0], SIZE, 4)

        them.do(1, "touch", at[1], SIZE)
        them.ask(0, "become", NOBODY)

        def moved(member: int, how: int) -> tuple[object, bool]:
            spots = range(at[0], at[0] + SIZE, 64 * PAGE)
            before = [pagebits.entry(spot, them.pid(0)) for spot in spots]
            result = them.ask(member, "move", at[member], SIZE, how)
            # A page that was moved is found where it is now at the next access.
            assert {them.do(0, "peek", spot) for spot in spots} == {4}
            after = [pagebits.entry(spot, them.pid(0)) for spot in spots]
            assert (before == after) == (not set(before) - set(after))
            return result, before != after

        assert moved(0, MPOL_MF_MOVE) == (None, False)
        assert moved(1, MPOL_MF_MOVE) == (None, False)
        assert moved(0, MPOL_MF_MOVE_ALL) == ("EPERM", False)
        assert moved(1, MPOL_MF_MOVE_ALL) == (None, True)
        them.do(1, "munmap", at[1], SIZE)
        assert moved(0, MPOL_MF_MOVE) == (None, True)


@pytest.mark.parametrize("advice", ["DONTDUMP", "NOHUGEPAGE", "RANDOM"])
def test_refused_advice_splits_nothing(advice: str) -> None:
    """Also where the range begins with a granule, and ends inside one."""
    size = 4 * GRANULE
    with calls.memfd(size) as fd, calls.mapped(size, RW, SHARED_PT, fd) as at:
        before = calls.shared_regions()
        for start, length in ((GRANULE, PAGE), (GRANULE, GRANULE + PAGE), (PAGE, GRANULE)):
            assert calls.error_of(calls.madvise, at + start, length, ADVICE[advice]) == "EINVAL"
        assert calls.shared_regions() == before
