# SPDX-License-Identifier: MIT
"""mremap of the model."""

import errno

import pytest
from spec_world import AT, RW, World

from ptshare.spec.entries import GIB, GRANULE, PAGE
from ptshare.spec.faults import populate
from ptshare.spec.files import OpenFile
from ptshare.spec.invariants import broken
from ptshare.spec.shows import present
from ptshare.spec.state import READ, WRITE, Outcome
from ptshare.spec.system import HOST_BASE

TO = AT + 4 * GIB


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("new", [2 * GRANULE, 4 * GRANULE, 6 * GRANULE])
def test_a_guest_moves_and_goes_on_sharing(world: World, new: int) -> None:
    one, other = world.guest(), world.guest()
    populate(world, one, AT, 4 * GRANULE)
    world.does(one, AT, WRITE, 5)
    assert world.mremap(one, AT, 4 * GRANULE, new, TO) == Outcome(TO)
    assert [(each.start, each.length) for each in one.mappings] == [(TO, new)]
    assert list(broken(world)) == []
    assert world.does(one, AT, READ).signal == "SIGSEGV"
    # One fault for the link, none for a page.
    assert [world.does(one, TO + n * PAGE, READ).faults for n in range(3)] == [1, 0, 0]
    assert world.does(one, TO, READ).value == 5
    world.does(other, AT + PAGE, WRITE, 6, cpu=1)
    assert world.does(one, TO + PAGE, READ).value == 6
    assert len(world.domains) == 1


def test_a_part_moves(world: World) -> None:
    one = world.guest()
    world.does(one, AT + GRANULE, WRITE, 5)
    assert world.mremap(one, AT + GRANULE, GRANULE, GRANULE, TO) == Outcome(TO)
    assert world.does(one, TO, READ).value == 5
    assert world.does(one, AT + GRANULE, READ).signal == "SIGSEGV"
    assert world.domains[0].guests == 3


def test_in_place(world: World) -> None:
    one = world.guest()
    populate(world, one, AT, 4 * GRANULE)
    assert world.mremap(one, AT, 4 * GRANULE, 2 * GRANULE) == Outcome(AT)
    assert world.does(one, AT + 2 * GRANULE, READ).signal == "SIGSEGV"
    assert world.does(one, AT, READ).faults == 0
    assert world.mremap(one, AT, 2 * GRANULE, 3 * GRANULE) == Outcome(AT)
    assert world.does(one, AT + 2 * GRANULE, READ) == Outcome(faults=1)
    assert world.mremap(one, AT, 3 * GRANULE, 3 * GRANULE) == Outcome(AT)


def test_no_room_to_grow(world: World) -> None:
    """Then the kernel finds another place, one that suits the file."""
    one = world.guest()
    world.mmap(one, AT + 4 * GRANULE, GRANULE, READ, OpenFile(world.data))
    world.does(one, AT, WRITE, 4)
    found = world.mremap(one, AT, 4 * GRANULE, 5 * GRANULE)
    assert found.errno == 0
    assert found.value % GRANULE == 0
    assert found.value != AT
    assert world.does(one, found.value, READ).value == 4


@pytest.mark.parametrize(
    ("start", "length", "new", "to", "number"),
    [
        (AT + PAGE, GRANULE, GRANULE, None, errno.EINVAL),
        (AT, GRANULE, PAGE, None, errno.EINVAL),
        (AT, GRANULE + PAGE, GRANULE, TO, errno.EINVAL),
        (AT, GRANULE, GRANULE, TO + PAGE, errno.EINVAL),
        (AT, 4 * GRANULE, 4 * GRANULE, AT + GRANULE, errno.EINVAL),
        (AT, GRANULE, 0, None, errno.EINVAL),
        (AT + 1, GRANULE, GRANULE, None, errno.EINVAL),
        (AT, 4 * GRANULE, 1 << 47, None, errno.EINVAL),
        (AT, 5 * GRANULE, 6 * GRANULE, None, errno.EFAULT),
        (TO, GRANULE, GRANULE, None, errno.EFAULT),
        (AT, GRANULE, GRANULE, (1 << 47) - GRANULE, errno.EINVAL),
    ],
)
def test_refused(world: World, start: int, length: int, new: int, to: int | None, number: int) -> None:
    one = world.guest()
    populate(world, one, AT, 4 * GRANULE)
    assert world.mremap(one, start, length, new, to) == Outcome(-1, number)
    assert [(each.start, each.length) for each in one.mappings] == [(AT, 4 * GRANULE)]
    assert world.does(one, AT, READ).faults == 0


def test_over_a_part_of_another_guest(world: World) -> None:
    one = world.guest()
    assert world.mmap(one, TO, 2 * GRANULE, RW, OpenFile(world.data), shared_pt=True).errno == 0
    plain = world.process()
    plain.mappings = []
    world.mmap(one, TO + GIB, GRANULE, RW, OpenFile(world.data))
    assert world.mremap(one, TO + GIB, PAGE, PAGE, TO + PAGE).errno == errno.EINVAL
    assert world.mremap(one, TO + GIB, PAGE, PAGE, TO + GIB + GRANULE) == Outcome(TO + GIB + GRANULE)
    assert world.mremap(one, AT, GRANULE, GRANULE, TO) == Outcome(TO)
    assert list(broken(world)) == []


def test_ordinary_entries_move(world: World) -> None:
    one = world.plain()
    world.does(one, AT + PAGE, WRITE, 7)
    assert world.mremap(one, AT, 2 * PAGE, 3 * PAGE, TO) == Outcome(TO)
    assert world.does(one, TO + PAGE, READ) == Outcome(7)
    assert not present(one, TO)
    assert world.does(one, AT + PAGE, READ).signal == "SIGSEGV"
    assert world.does(one, AT + 2 * PAGE, READ).signal == ""
    assert list(broken(world)) == []


def test_a_length_of_zero_duplicates(world: World) -> None:
    one = world.guest()
    world.does(one, AT, WRITE, 8)
    assert world.mremap(one, AT, 0, GRANULE, TO) == Outcome(TO)
    assert (world.does(one, TO, READ).value, world.does(one, AT, READ).value) == (8, 8)
    assert world.domains[0].guests == 2


def test_what_cannot_be_resized_has_emptied_the_new_place(world: World) -> None:
    """As the kernel does: mremap(2) looks at the old mapping's end last."""
    one = world.guest()
    world.mmap(one, TO, GRANULE, RW, OpenFile(world.data))
    assert world.mremap(one, AT, 5 * GRANULE, 5 * GRANULE, TO).errno == errno.EFAULT
    assert one.at(TO) is None
    assert world.does(one, AT, READ).signal == ""


def test_a_gib_link_comes_only_where_no_table_of_its_own_stands(world: World) -> None:
    """A guest that has grown to a whole GiB has granules linked already: it goes on by granules."""
    world.large = True
    large = world.file("large", 2 * GIB)
    one, other = world.guest(file=large, granules=2), world.guest(file=large, granules=512)
    world.does(one, AT, READ)
    assert world.mremap(one, AT, 2 * GRANULE, GIB) == Outcome(AT)
    world.does(one, AT + GRANULE, READ)
    world.does(other, AT, READ)
    assert [level for _, level, _ in one.tables.links()] == [0, 0]
    assert [level for _, level, _ in other.tables.links()] == [1]
    assert (world.vm_pte(one), world.vm_pte(other)) == ((0, 1, 1), (0, 0, 1))
    assert next(other.tables.links())[2].address == HOST_BASE
    # What is only duplicated keeps its links.
    assert world.mremap(other, AT + GRANULE, 0, GRANULE, TO) == Outcome(TO)
    assert [level for _, level, _ in other.tables.links()] == [1]
