# SPDX-License-Identifier: MIT
"""Each invariant is seen to be broken: by a model that lacks a step, or by hand."""

from collections.abc import Callable
from typing import Any

import pytest
from spec_world import AT, RW, World

from ptshare.spec import advice, changes, faults, mappings, protection, reach, shows
from ptshare.spec.entries import GIB, GRANULE, PAGE, PMD, PTE, entry
from ptshare.spec.files import OpenFile
from ptshare.spec.invariants import Locks, broken
from ptshare.spec.state import EXECUTE, HOST_BASE, NONE, READ, WRITE, Domain, Outcome, Process
from ptshare.spec.tables import Counts


@pytest.fixture
def world() -> World:
    """Two guests, each with the first page on a CPU."""
    made = World()
    for cpu in (0, 1):
        made.does(made.guest(), AT, WRITE, cpu + 1, cpu=cpu)
    return made


def guests(world: World) -> tuple[Process, Process]:
    one, other = world.processes.values()
    return one, other


def nothing(*_: Any, **__: Any) -> None:
    """A step that is left out."""


def _truncate(world: World) -> object:
    return world.truncate(world.data, 0)


def _migrate(world: World) -> None:
    world.migrate(world.data, 0)


def _reclaim(world: World) -> object:
    return world.reclaim(world.data, 0, 1)


def _sync(world: World) -> object:
    return world.fsync(world.data)


def _forbid(world: World) -> object:
    return world.mprotect(guests(world)[0], AT, PAGE, READ)


def _unmap(world: World) -> object:
    return world.munmap(guests(world)[0], AT, GRANULE)


def _end(world: World) -> object:
    return world.exit(guests(world)[0])


def _forget(world: World) -> object:
    return world.madvise(guests(world)[0], AT, GRANULE, "DONTNEED")


@pytest.mark.parametrize(
    ("module", "name", "does", "words"),
    [
        (changes, "unmap_pages", _truncate, "is not that of page"),
        (changes, "unmap_pages", _reclaim, "is not that of page"),
        (reach, "flush_file", _truncate, "that the tables do not have"),
        (reach, "flush_file", _migrate, "that the tables do not have"),
        (changes, "flush_file", _sync, "rights to"),
        (protection, "flush_file", _forbid, "rights to"),
        (protection, "with_protection", _forbid, "can be written"),
        (mappings, "flush", _forget, "that the tables do not have"),
        (mappings, "clear", _unmap, "in no guest"),
    ],
)
def test_a_step_is_missing(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    does: Callable[[World], object],
    words: str,
) -> None:
    # What comes back is only used of with_protection: the entry as it was.
    left_out = (lambda value, _: value) if name == "with_protection" else nothing
    monkeypatch.setattr(module, name, left_out)
    does(world)
    assert any(words in each for each in broken(world))


@pytest.mark.parametrize("does", [_truncate, _migrate, _reclaim, _sync, _forbid, _unmap, _end, _forget])
def test_all_of_these_hold_with_all_steps(world: World, does: Callable[[World], object]) -> None:
    does(world)
    assert list(broken(world)) == []


def _guest_not_counted(world: World) -> None:
    world.domains[0].guests += 1


def _domain_twice(world: World) -> None:
    world.domains.append(Domain(world.data, world.domains[0].access))
    world.domains[1].guests = 1
    guests(world)[0].mappings[0].domain = world.domains[1]


def _domain_gone(world: World) -> None:
    world.domains.clear()


def _link_in_a_host(world: World) -> None:
    world.domains[0].tables.link(AT, PTE, world.domains[0].tables, HOST_BASE)


def _link_elsewhere(world: World) -> None:
    guests(world)[0].tables.link(AT, PTE, world.domains[0].tables, HOST_BASE + GRANULE)


def _link_into_nowhere(world: World) -> None:
    guests(world)[0].tables.link(AT + GRANULE, PTE, world.domains[0].tables, HOST_BASE + GRANULE)


def _link_to_another_class(world: World) -> None:
    reader = world.guest(READ, writable=False)
    reader.tables.link(AT, PTE, world.domains[0].tables, HOST_BASE)


def _link_of_a_gib(world: World) -> None:
    guests(world)[0].tables.clear(AT, AT + GIB)
    guests(world)[0].tables.link(AT, PMD, world.domains[0].tables, HOST_BASE)


def _own_entry(world: World) -> None:
    one = world.guest()
    frame = world.data.frame(0)
    assert frame is not None
    one.tables.set(AT, entry(frame, 1))


def _own_table(world: World) -> None:
    guests(world)[0].tables.make(AT + GRANULE, PTE)


def _table_of_nothing(world: World) -> None:
    guests(world)[0].tables.make(AT + 1024 * GIB, PMD)


def _table_left(world: World) -> None:
    world.domains[0].tables.make(HOST_BASE + GIB, PMD)
    for process in list(world.processes.values()):
        process.mappings.clear()


def _executable(world: World) -> None:
    faults.map_page(world.domains[0].tables, HOST_BASE, world.data, 0, RW | EXECUTE, WRITE)


def _written_and_executed(world: World) -> None:
    world.domains[0].access = world.domains[0].access._replace(mdwe=True)
    world.domains[0].protection[5] = WRITE | EXECUTE


def _part_of_a_granule(world: World) -> None:
    guests(world)[0].mappings[0].length -= PAGE


def _too_far(world: World) -> None:
    guests(world)[0].mappings[0].offset = 1 << 47


def _overlap(world: World) -> None:
    one = guests(world)[0]
    one.insert(one.mappings[0].part(AT, AT + GRANULE))


def _too_many_rights(world: World) -> None:
    guests(world)[0].mappings[0].may = READ


def _key(world: World) -> None:
    guests(world)[0].mappings[0].key = 1


def _ended(world: World) -> None:
    cpu = world.cpus[0]
    one = cpu.runs
    world.exit(guests(world)[0])
    cpu.runs = one


def _nobody_runs(world: World) -> None:
    world.cpus[0].runs = None


def _dirty(world: World) -> None:
    world.data.dirty.clear()


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (_guest_not_counted, "counts 3 guests and has 2"),
        (_domain_twice, "two domains of one file"),
        (_domain_gone, "a domain that has gone"),
        (_domain_gone, "a host that has gone"),
        (_link_in_a_host, "has a link"),
        (_link_elsewhere, "another place of the file"),
        (_link_into_nowhere, "a table that is not there"),
        (_link_to_another_class, "leads to another host"),
        (_link_of_a_gib, "in no guest as a whole"),
        (_own_entry, "an entry of its own"),
        (_own_table, "entries of its own for a guest"),
        (_table_of_nothing, "in which nothing is mapped"),
        (_table_left, "left after the last guest"),
        (_executable, "can be executed"),
        (_written_and_executed, "writable and executable"),
        (_part_of_a_granule, "a part of a granule"),
        (_too_far, "beyond what a host maps"),
        (_overlap, "overlaps"),
        (_too_many_rights, "more rights than its file"),
        (_too_many_rights, "another file's or class's domain"),
        (_key, "a protection key"),
        (_ended, "runs a process that has ended"),
        (_nobody_runs, "runs nobody and holds translations"),
        (_dirty, "the file does not know"),
    ],
)
def test_broken_by_hand(world: World, breaks: Callable[[World], None], words: str) -> None:
    breaks(world)
    assert any(words in each for each in broken(world))


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("sysfs", shows.Sharing(1, 1, 4), "1 domains and 1 guests are shown"),
        ("page_tables", 0, "PageTables shows 0 bytes"),
        ("vm_shared_pt", 5, "VmSharedPT of process 1 shows 5"),
        ("sharers", 0, "no sharer"),
    ],
)
def test_what_is_shown_is_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, wrong: object, words: str
) -> None:
    monkeypatch.setattr(shows, name, lambda *_: wrong)
    assert any(words in each for each in broken(world))


def test_locks_are_left_out_of_account(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a guest's page all locks count, until its content goes."""
    one, other = guests(world)
    locks = Locks()
    for process in (one, other):
        world.mlock(process, AT, GRANULE)
    assert list(locks.broken(world)) == []
    world.munlock(one, AT, GRANULE)
    world.punch(world.data, 5, 6)
    assert list(locks.broken(world)) == []
    monkeypatch.setattr(reach, "guests_lock", lambda *_: False)
    world.reclaim(world.data, 0, 1)
    assert list(locks.broken(world)) == ["page 0 of data is locked, and not in memory any more"]
    world.munlock(other, AT, GRANULE)
    world.reclaim(world.data, 0, 512)
    assert list(locks.broken(world)) == []


def test_the_lock_of_an_ordinary_mapping_is_left_out_of_account(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, locks = world.plain(), Locks()
    world.mlock(plain, AT, PAGE)
    assert list(locks.broken(world)) == []
    monkeypatch.setattr(changes, "_locked_ranges", lambda *_: [])
    world.reclaim(world.data, 0, 512)
    assert any("locked" in each for each in locks.broken(world))


def test_advice_that_reaches_too_far(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """MADV_DONTNEED that took the pages away, too, would be a fault of the other guest."""
    monkeypatch.setattr(
        advice, "_dont_need", lambda state, _, part: reach.unmap_pages(state, part.file, 0, 512)
    )
    _forget(world)
    assert world.does(guests(world)[1], AT, READ, cpu=1).faults == 1


def test_tables_are_counted_however_they_are_kept() -> None:
    """A table with all pages present, or all gone, is so many as it stands for."""
    world = World()
    one = world.process()
    world.mmap(one, AT, 2 * GIB, READ, OpenFile(world.file("large", 2 * GIB)))
    assert faults.populate(world, one, AT, 2 * GIB) == Outcome(faults=2)
    assert world.vm_pte(one) == Counts(1024, 2, 1)
    assert world.madvise(one, AT + PAGE, GIB, "DONTNEED") == Outcome()
    assert world.vm_pte(one) == Counts(1024, 2, 1)
    assert [shows.present(one, AT + at) for at in (0, PAGE, GIB - PAGE, GIB, GIB + PAGE)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert world.mprotect(one, AT, PAGE, NONE) == Outcome()
    assert world.munmap(one, AT + PAGE, GIB + GRANULE) == Outcome()
    assert world.vm_pte(one) == Counts(1 + 511, 2, 1)
    assert len(list(one.tables.tables())) == world.vm_pte(one).all
