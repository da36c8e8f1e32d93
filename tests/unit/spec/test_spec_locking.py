# SPDX-License-Identifier: MIT
"""mlock of the model: pages of a domain stay as long as anyone has them locked."""

import errno

import pytest
from spec_world import AT, RW, World

from ptshare.spec.entries import GRANULE, PAGE
from ptshare.spec.files import OpenFile
from ptshare.spec.invariants import broken
from ptshare.spec.shows import present
from ptshare.spec.state import EXECUTE, NONE, READ, WRITE, Outcome, Process


@pytest.fixture
def world() -> World:
    return World()


def stays(world: World, page: int) -> bool:
    """Reclaim leaves a page of the file."""
    world.reclaim(world.data, 0, 2048)
    assert list(broken(world)) == []
    return world.data.frame(page) is not None


@pytest.mark.parametrize("goes", ["munlock", "munlockall", "munmap", "exit", "exec", "kill", "over it"])
def test_the_last_one_unlocks(world: World, goes: str) -> None:
    one, other = world.guest(), world.guest()
    for process in (one, other):
        assert world.mlock(process, AT, GRANULE) == Outcome()
    assert present(one, AT + 511 * PAGE)
    assert stays(world, 5)

    def go(process: Process) -> None:
        match goes:
            case "munlock":
                assert world.munlock(process, AT, GRANULE) == Outcome()
            case "munmap":
                assert world.munmap(process, AT, GRANULE) == Outcome()
            case "over it":
                opened = OpenFile(world.data)
                assert world.mmap(process, AT, GRANULE, RW, opened).errno == 0
            case _:
                getattr(world, goes)(process)

    go(one)
    assert stays(world, 5)
    go(other)
    assert not stays(world, 5)


def test_each_range_by_who_locked_it(world: World) -> None:
    one, other = world.guest(), world.guest()
    world.mlock(one, AT, 2 * GRANULE)
    world.mlock(other, AT + GRANULE, 2 * GRANULE)
    world.munlock(one, AT, 2 * GRANULE)
    assert [stays(world, page) for page in (0, 512, 1024)] == [False, True, True]


def test_the_pages_of_another_class_are_its_own(world: World) -> None:
    """A page is locked where it is mapped and locked."""
    one, reader = world.guest(), world.guest(READ, writable=False)
    world.mlock(reader, AT, GRANULE)
    world.punch(world.data, 0, 512)
    world.does(one, AT, READ)
    assert not stays(world, 0)
    world.does(reader, AT, READ)
    assert stays(world, 0)


def test_whole_granules_or_nothing(world: World) -> None:
    one, plain = world.guest(), world.plain()
    assert world.mlock(one, AT, PAGE).errno == errno.EINVAL
    assert not one.mappings[0].locked
    assert world.mlock(plain, AT + 5, PAGE) == Outcome()
    assert [each.length for each in plain.mappings] == [2 * PAGE, 4 * GRANULE - 2 * PAGE]
    assert world.mlock(one, AT, 4 * GRANULE) == Outcome()
    # It is locked already: nothing is to be split.
    assert world.mlock(one, AT, PAGE) == Outcome()
    assert world.munlock(one, AT, PAGE).errno == errno.EINVAL
    assert world.munlock(one, AT + GRANULE, GRANULE) == Outcome()
    assert [each.locked for each in one.mappings] == [True, False, True]


def test_gaps(world: World) -> None:
    """What stands before a gap is locked."""
    one = world.guest(granules=1)
    assert world.mlock(one, AT, 2 * GRANULE).errno == errno.ENOMEM
    assert one.mappings[0].locked
    assert world.munlock(one, AT - GRANULE, 2 * GRANULE).errno == errno.ENOMEM
    assert one.mappings[0].locked


def test_what_cannot_be_brought_in(world: World) -> None:
    one, other = world.guest(), world.guest()
    world.mprotect(other, AT + PAGE, PAGE, NONE)
    assert world.mlock(one, AT, GRANULE).errno == errno.ENOMEM
    assert one.mappings[0].locked
    assert [present(one, AT + n * PAGE) for n in range(3)] == [True, False, False]
    world.mprotect(other, AT + PAGE, PAGE, EXECUTE)
    assert world.mlock(one, AT, GRANULE) == Outcome()
    plain = world.plain(EXECUTE)
    assert world.mlock(plain, AT, GRANULE) == Outcome()
    world.truncate(world.data, 3 * GRANULE)
    assert world.mlock(plain, AT, 4 * GRANULE).errno == errno.ENOMEM


def test_the_limit_counts_for_each(world: World) -> None:
    one, other = world.guest(), world.guest()
    one.memlock = other.memlock = 2 * GRANULE
    assert world.mlock(one, AT, 3 * GRANULE).errno == errno.ENOMEM
    for process in (one, other):
        assert world.mlock(process, AT, 2 * GRANULE) == Outcome()
        assert world.mlock(process, AT + GRANULE, GRANULE) == Outcome()
        assert world.mlock(process, AT + GRANULE, 2 * GRANULE).errno == errno.ENOMEM
    opened = OpenFile(world.data)
    outcome = world.mmap(one, AT + (1 << 30), GRANULE, RW, opened, shared_pt=True, locked=True)
    assert outcome.errno == errno.EAGAIN
    world.munmap(one, AT + 2 * GRANULE, 2 * GRANULE)
    assert world.mremap(one, AT, 2 * GRANULE, 3 * GRANULE).errno == errno.EAGAIN
    assert world.mlockall(one) == Outcome()
    assert one.mappings[0].locked
    assert world.mlockall(one, future=True) == Outcome()
    one.memlock = 0
    assert world.mlock(one, AT, GRANULE).errno == errno.EPERM
    assert world.mlockall(one).errno == errno.EPERM
    one.memlock = PAGE
    assert world.mlockall(one).errno == errno.ENOMEM
    assert world.mlockall(one, current=False).errno == errno.EINVAL


def test_other_ways_to_lock(world: World) -> None:
    opened = OpenFile(world.data)
    one = world.process()
    assert world.mmap(one, AT, GRANULE, RW, opened, shared_pt=True, locked=True) == Outcome(AT)
    assert present(one, AT)
    assert stays(world, 0)
    assert world.mlockall(one, current=False, future=True) == Outcome()
    world.mmap(one, AT + GRANULE, GRANULE, RW, opened, GRANULE, shared_pt=True)
    assert stays(world, 512)
    # What has grown is locked, too, and what has moved stays so.
    assert world.mremap(one, AT + GRANULE, GRANULE, 2 * GRANULE) == Outcome(AT + GRANULE)
    assert stays(world, 1024)
    to = AT + (1 << 30)
    assert world.mremap(one, AT, GRANULE, GRANULE, to) == Outcome(to)
    assert stays(world, 0)
    assert world.mremap(one, to, GRANULE, 2 * GRANULE, AT + (2 << 30)) == Outcome(AT + (2 << 30))
    world.mremap(one, AT + GRANULE, 2 * GRANULE, 3 * GRANULE, to)
    assert stays(world, 1536)
    assert world.munlockall(one) == Outcome()
    assert not any(stays(world, page) for page in (0, 512, 1024, 1536))
    world.mmap(one, AT, GRANULE, RW, opened, shared_pt=True)
    assert not one.mappings[0].locked


def test_fork_locks_nothing(world: World) -> None:
    one = world.guest()
    world.mlock(one, AT, GRANULE)
    child = world.fork(one)
    world.exit(one)
    assert not stays(world, 0)
    assert not any(each.locked for each in child.mappings)


def test_locked_pages_are_not_given_up(world: World) -> None:
    """Not by advice of who has them locked, nor by that of others. They can be moved and cut off."""
    one, other = world.guest(), world.guest()
    world.mlock(one, AT, GRANULE)
    for advice in ("DONTNEED", "REMOVE", "COLD", "PAGEOUT"):
        assert world.madvise(one, AT, GRANULE, advice).errno == errno.EINVAL
    world.does(other, AT, READ)
    for advice in ("PAGEOUT", "DONTNEED"):
        assert world.madvise(other, AT, GRANULE, advice) == Outcome()
    assert world.data.frame(0) is not None
    assert present(one, AT)
    before = world.data.frame(0)
    world.migrate(world.data, 0)
    assert world.data.frame(0) != before
    assert present(one, AT)
    assert stays(world, 0)
    assert world.punch(world.data, 0, 1) == Outcome()
    assert world.does(one, AT, WRITE, 1).faults == 1
