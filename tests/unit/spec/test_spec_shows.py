# SPDX-License-Identifier: MIT
"""What the model shows as the kernel would."""

from fractions import Fraction

import pytest
from spec_world import AT, RW, World

from ptshare.spec import shows
from ptshare.spec.entries import GIB, GRANULE, PAGE
from ptshare.spec.faults import populate
from ptshare.spec.files import OpenFile
from ptshare.spec.shows import Region
from ptshare.spec.state import NONE, READ, WRITE


@pytest.fixture
def world() -> World:
    return World()


def test_maps_show_the_protection_in_force(world: World) -> None:
    one, other = world.guest(), world.guest(at=AT + GIB)
    reader = world.guest(READ, writable=False)
    world.mprotect(other, AT + GIB + GRANULE + 3 * PAGE, 2 * PAGE, READ)
    low, high, end = GRANULE + 3 * PAGE, GRANULE + 5 * PAGE, 4 * GRANULE
    assert shows.maps(one) == [
        Region(AT, AT + low, RW, 0, world.data),
        Region(AT + low, AT + high, READ, low, world.data),
        Region(AT + high, AT + end, RW, high, world.data),
    ]
    assert [region.prot for region in shows.maps(reader)] == [READ]
    assert [region.prot for region in shows.maps(world.guest(READ | WRITE))] == [RW, READ, RW]
    world.mprotect(one, AT, 4 * GRANULE, RW)
    assert shows.maps(one) == [Region(AT, AT + end, RW, 0, world.data)]


def test_maps_join_what_continues(world: World) -> None:
    """However a kernel, or the model, has split it."""
    one, opened = world.process(), OpenFile(world.data)
    world.mmap(one, AT, GRANULE, RW, opened, shared_pt=True)
    world.mmap(one, AT + GRANULE, GRANULE, RW, opened, GRANULE)
    world.mmap(one, AT + 2 * GRANULE, GRANULE, RW, opened)
    world.madvise(one, AT + GRANULE, PAGE, "DONTDUMP")
    regions = [(region.start, region.end, region.offset) for region in shows.maps(one)]
    assert regions == [(AT, AT + 2 * GRANULE, 0), (AT + 2 * GRANULE, AT + 3 * GRANULE, 0)]


def test_present(world: World) -> None:
    one, other = world.guest(), world.guest()
    world.does(one, AT + 5, READ)
    assert [shows.present(one, AT + at) for at in (0, 7, PAGE)] == [True, True, False]
    assert not shows.present(other, AT)
    world.does(other, AT + PAGE, READ)
    assert shows.present(other, AT)
    # PROT_NONE: the page stays.
    world.mprotect(one, AT, PAGE, NONE)
    assert shows.present(one, AT)


def test_a_page_counts_once_over_all(world: World) -> None:
    guests = [world.guest() for _ in range(3)]
    for number, guest in enumerate(guests):
        populate(world, guest, AT, 2 * GRANULE)
        assert shows.rss(guest, AT, AT + 4 * GRANULE) == 2 * GRANULE
        shares = [shows.pss(world, one, AT, AT + 4 * GRANULE) for one in guests]
        assert shares[: number + 1] == [Fraction(2 * GRANULE, number + 1)] * (number + 1)
        assert sum(shares) == 2 * GRANULE
    assert not shows.exclusive(world, guests[0], AT)
    for guest in guests[1:]:
        world.exit(guest)
    assert shows.exclusive(world, guests[0], AT)
    world.does(world.plain(), AT, READ)
    assert not shows.exclusive(world, guests[0], AT)


def test_classes_count_apart(world: World) -> None:
    """The page is mapped by both sets of tables."""
    guests = [world.guest(), world.guest(), world.guest(), world.guest(READ, writable=False)]
    for guest in guests:
        populate(world, guest, AT, GRANULE)
    shares = [shows.pss(world, guest, AT, AT + GRANULE) for guest in guests]
    assert shares == [Fraction(GRANULE, 6)] * 3 + [Fraction(GRANULE, 2)]


def test_links_of_whole_gibs_count_too(world: World) -> None:
    world.large = True
    large = world.file("large", GIB)
    whole, part = world.guest(file=large, granules=512), world.guest(file=large, granules=1)
    populate(world, whole, AT, 2 * GRANULE)
    populate(world, part, AT, GRANULE)
    assert (shows.vm_shared_pt(whole), shows.vm_shared_pt(part)) == (GIB, GRANULE)
    assert shows.pss(world, whole, AT, AT + 2 * GRANULE) == GRANULE + GRANULE // 2
    assert [shows.exclusive(world, whole, AT + n * GRANULE) for n in range(3)] == [False, True, False]
    assert (shows.resident(whole), shows.resident(part)) == (GIB, GRANULE)


def test_sysfs_and_page_tables(world: World) -> None:
    one, other = world.process(), world.process()
    opened = OpenFile(world.data)
    for process, at in ((one, AT), (one, AT + GIB), (other, AT)):
        world.mmap(process, at, 4 * GRANULE, RW, opened, shared_pt=True)
    assert shows.sysfs(world) == (1, 3, 0)
    populate(world, one, AT, 3 * GRANULE)
    # Three tables of PTEs below a PMD and a PUD table.
    assert shows.sysfs(world) == (1, 3, 5)
    assert (shows.vm_pte(one), shows.vm_pte(other)) == ((0, 1, 1), (0, 0, 0))
    assert shows.page_tables(world) == 7 * PAGE
    # Tables stay, though all pages go.
    world.truncate(world.data, 0)
    assert shows.sysfs(world) == (1, 3, 5)
    world.munmap(one, AT, 4 * GRANULE)
    # The other mapping needs the table above.
    assert shows.vm_pte(one) == (0, 0, 1)
    assert shows.page_tables(world) == 6 * PAGE
    world.munmap(one, AT + GIB, 4 * GRANULE)
    assert shows.page_tables(world) == 5 * PAGE
    world.exit(one)
    world.exit(other)
    assert (shows.sysfs(world), shows.page_tables(world)) == ((0, 0, 0), 0)
