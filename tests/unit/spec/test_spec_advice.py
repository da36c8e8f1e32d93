# SPDX-License-Identifier: MIT
"""madvise of the model, and msync and mincore."""

import errno

import pytest
from spec_world import AT, RW, World

from ptshare.spec.advice import ADVICE
from ptshare.spec.entries import GRANULE, PAGE, Flag
from ptshare.spec.faults import populate
from ptshare.spec.files import OpenFile
from ptshare.spec.invariants import broken
from ptshare.spec.shows import present
from ptshare.spec.state import NONE, READ, WRITE, Outcome

STAYS = ("RANDOM", "SEQUENTIAL", "DONTFORK", "DONTDUMP", "NOHUGEPAGE")


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("advice", ADVICE)
def test_each_on_a_guest(world: World, advice: str) -> None:
    one, other = world.guest(), world.guest()
    world.does(one, AT, WRITE, 1)
    refused = advice in ("HUGEPAGE", "COLLAPSE")
    assert world.madvise(one, AT, 4 * GRANULE, advice).errno == (errno.EINVAL if refused else 0)
    assert world.does(other, AT, READ, cpu=1).value == (0 if advice == "REMOVE" else 1)
    assert world.does(one, AT, READ).signal == ""


@pytest.mark.parametrize("advice", ADVICE)
def test_bad_ranges(world: World, advice: str) -> None:
    one = world.guest(granules=1)
    assert world.madvise(one, AT + 1, PAGE, advice).errno == errno.EINVAL
    assert world.madvise(one, AT, 0, advice) == Outcome()
    if advice not in ("HUGEPAGE", "COLLAPSE"):
        assert world.madvise(one, AT, 2 * GRANULE, advice).errno == errno.ENOMEM
    assert world.madvise(one, AT - 2 * GRANULE, GRANULE, advice).errno == errno.ENOMEM


@pytest.mark.parametrize("advice", STAYS)
def test_what_splits_takes_whole_granules(world: World, advice: str) -> None:
    one, plain = world.guest(), world.plain()
    assert world.madvise(one, AT + PAGE, GRANULE, advice).errno == errno.EINVAL
    assert len(one.mappings) == 1
    assert world.madvise(one, AT + GRANULE, GRANULE, advice) == Outcome()
    assert [advice in each.advice for each in one.mappings] == [False, True, False]
    # It has it already: nothing is to be split.
    assert world.madvise(one, AT + GRANULE, PAGE, advice) == Outcome()
    assert world.madvise(plain, AT + PAGE, PAGE, advice) == Outcome()
    assert list(broken(world)) == []


def test_after_a_split_the_link_of_a_gib_stays(world: World) -> None:
    world.large = True
    large = world.file("large", 1 << 30)
    one = world.guest(file=large, granules=512)
    populate(world, one, AT, 1 << 30)
    assert world.madvise(one, AT, GRANULE, "DONTDUMP") == Outcome()
    assert world.does(one, AT + GRANULE, READ).faults == 0
    assert [level for _, level, _ in one.tables.links()] == [1]


def test_not_for_children(world: World) -> None:
    one = world.guest()
    assert world.madvise(one, AT + GRANULE, GRANULE, "DONTFORK") == Outcome()
    child = world.fork(one)
    assert [each.start for each in child.mappings] == [AT, AT + 2 * GRANULE]
    assert world.does(child, AT + GRANULE, READ).signal == "SIGSEGV"
    assert world.madvise(one, AT, 4 * GRANULE, "DOFORK") == Outcome()
    assert len(world.fork(one).mappings) == 3


def test_an_advice_takes_its_opposite_away(world: World) -> None:
    one = world.plain()
    for first, then in (("RANDOM", "SEQUENTIAL"), ("SEQUENTIAL", "NORMAL"), ("HUGEPAGE", "NOHUGEPAGE")):
        world.madvise(one, AT, 4 * GRANULE, first)
        assert first in one.mappings[0].advice
        world.madvise(one, AT, 4 * GRANULE, then)
        assert first not in one.mappings[0].advice


def test_remove(world: World) -> None:
    """Acts on the file, so on everyone; needs a right to write to it."""
    one, reader = world.guest(), world.guest(READ, writable=False)
    world.does(one, AT + PAGE, WRITE, 1)
    world.does(one, AT + 2 * PAGE, WRITE, 2)
    assert world.madvise(reader, AT + PAGE, PAGE, "REMOVE").errno == errno.EACCES
    assert world.does(reader, AT + PAGE, READ, cpu=1).value == 1
    # The protection in force does not matter.
    world.mprotect(one, AT, GRANULE, READ)
    assert world.madvise(one, AT + PAGE, PAGE, "REMOVE") == Outcome()
    assert world.does(reader, AT + PAGE, READ, cpu=1).value == 0
    assert world.does(reader, AT + 2 * PAGE, READ, cpu=1).value == 2
    world.seal(world.data, "future_write")
    assert world.madvise(one, AT + PAGE, PAGE, "REMOVE").errno == errno.EPERM


def test_populate(world: World) -> None:
    one, other = world.guest(), world.guest()
    assert world.madvise(one, AT, 2 * GRANULE, "POPULATE_WRITE") == Outcome(faults=1024)
    assert [world.does(other, AT + n * PAGE, WRITE, n).faults for n in range(3)] == [1, 0, 0]
    assert world.madvise(other, AT, 3 * GRANULE, "POPULATE_READ").errno == 0
    assert present(other, AT + 2 * GRANULE)
    # By the protection in force, not by what was asked for.
    world.mprotect(one, AT + PAGE, PAGE, READ)
    assert world.madvise(other, AT, GRANULE, "POPULATE_WRITE").errno == errno.EINVAL
    world.mprotect(one, AT + PAGE, PAGE, NONE)
    assert world.madvise(other, AT, GRANULE, "POPULATE_READ").errno == errno.EINVAL
    world.truncate(world.data, 2 * GRANULE)
    assert world.madvise(other, AT + GRANULE, 2 * GRANULE, "POPULATE_READ").errno == errno.EFAULT
    reader = world.guest(READ, writable=False)
    assert world.madvise(reader, AT, PAGE, "POPULATE_WRITE").errno == errno.EINVAL


def test_dont_need(world: World) -> None:
    """Of a guest the links of whole granules; of others entries."""
    one, plain = world.guest(), world.plain()
    for process in (one, plain):
        populate(world, process, AT, 4 * GRANULE)
        assert world.madvise(process, AT + PAGE, 2 * GRANULE, "DONTNEED") == Outcome()
    assert [present(one, AT + page * PAGE) for page in (0, 1, 512, 1023, 1024)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert [present(plain, AT + page * PAGE) for page in (0, 1, 512, 1024, 1025)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert world.data.frame(512) is not None
    # Tables stay as long as something is mapped in them.
    assert (world.vm_pte(plain).pte, world.shared_tables().pte) == (4, 4)


@pytest.mark.parametrize("kind", ["guests", "plain"])
def test_page_out(world: World, kind: str) -> None:
    """Shared tables are one; pages that several ordinary mappings have are in use by others."""
    make = world.guest if kind == "guests" else world.plain
    one, other = make(), make()
    world.does(one, AT, WRITE, 1)
    world.does(other, AT, READ, cpu=1)
    assert world.madvise(one, AT, GRANULE, "PAGEOUT") == Outcome()
    assert (world.data.frame(0) is None) == (kind == "guests")
    assert world.does(other, AT, READ, cpu=1).value == 1


def test_who_may_not_write_makes_nothing_cold_and_pages_nothing_out(world: World) -> None:
    stranger = world.process()
    opened = OpenFile(world.data, writable=False, stranger=True)
    world.mmap(stranger, AT, GRANULE, READ, opened, shared_pt=True)
    world.does(stranger, AT, READ)
    for advice in ("PAGEOUT", "COLD"):
        assert world.madvise(stranger, AT, GRANULE, advice) == Outcome()
    assert world.data.frame(0) is not None
    [(_, value)] = world.domains[0].tables.pages()
    assert value & Flag.ACCESSED
    # It is not told what others have read, either.
    assert world.mincore(stranger, AT, GRANULE).value == (1 << 512) - 1


def test_cold(world: World) -> None:
    one, other = world.guest(), world.guest()
    world.does(one, AT, READ)
    assert world.madvise(other, AT, GRANULE, "COLD") == Outcome()
    [(_, value)] = world.domains[0].tables.pages()
    # Who has not linked the table has nothing there that is to grow cold.
    assert value & Flag.ACCESSED
    world.does(other, AT, READ, cpu=1)
    assert world.madvise(other, AT, GRANULE, "COLD") == Outcome()
    [(_, value)] = world.domains[0].tables.pages()
    assert not value & Flag.ACCESSED
    assert world.does(one, AT, READ).faults == 0


def test_will_need_and_mincore(world: World) -> None:
    one, other = world.guest(), world.guest()
    assert world.mincore(one, AT, 4 * PAGE) == Outcome(0)
    world.does(other, AT + PAGE, READ)
    assert world.mincore(one, AT, 4 * PAGE) == Outcome(0b10)
    assert world.madvise(one, AT, 3 * PAGE, "WILLNEED") == Outcome()
    assert world.mincore(one, AT, 4 * PAGE) == Outcome(0b111)
    assert world.mincore(one, AT + 1, PAGE).errno == errno.EINVAL
    assert world.mincore(one, AT, 5 * GRANULE).errno == errno.ENOMEM


def test_msync(world: World) -> None:
    one, other = world.guest(), world.guest()
    world.does(one, AT, WRITE, 1)
    world.does(other, AT + PAGE, WRITE, 2, cpu=1)
    assert world.msync(other, AT, PAGE) == Outcome()
    assert world.data.dirty == {1}
    # The first store after it is found, whoever makes it.
    assert world.does(one, AT, WRITE, 3).faults == 1
    assert world.msync(other, AT + 1, PAGE).errno == errno.EINVAL
    assert world.msync(other, AT - PAGE, 3 * PAGE).errno == errno.ENOMEM
    assert world.data.dirty == set()
    world.does(one, AT, WRITE, 4)
    assert world.msync(world.guest(READ, writable=False), AT, PAGE) == Outcome()
    assert world.data.dirty == {0}
    world.mlock(one, AT, GRANULE)
    assert world.msync(one, AT, PAGE, invalidate=True).errno == errno.EBUSY


def test_one_mapping_after_the_other(world: World) -> None:
    """The first that refuses ends it."""
    one = world.process()
    for granule, locked in ((0, False), (1, True), (2, False)):
        at = AT + granule * GRANULE
        world.mmap(one, at, GRANULE, RW, OpenFile(world.data), at - AT, locked=locked)
        world.does(one, at, READ)
    assert world.madvise(one, AT, 3 * GRANULE, "DONTNEED").errno == errno.EINVAL
    assert [present(one, AT + n * GRANULE) for n in range(3)] == [False, True, True]
