# SPDX-License-Identifier: MIT
"""Protection in the model: keys, seals, and memory that is never writable and executable."""

import errno

import pytest
from spec_world import AT, RW, World

from ptshare.spec.entries import GIB, GRANULE, PAGE
from ptshare.spec.files import OpenFile
from ptshare.spec.invariants import broken
from ptshare.spec.state import EXECUTE, NONE, READ, WRITE, Outcome

RX, RWX = READ | EXECUTE, READ | WRITE | EXECUTE


@pytest.fixture
def world() -> World:
    return World()


def test_protection_keys(world: World) -> None:
    one, plain = world.guest(), world.plain()
    one.keys.add(1)
    plain.keys.add(1)
    assert world.pkey_mprotect(one, AT, PAGE, READ, 1).errno == errno.EINVAL
    assert world.does(one, AT, WRITE, 1).signal == ""
    for key in (0, -1):
        assert world.pkey_mprotect(one, AT, PAGE, READ, key) == Outcome()
        assert world.does(one, AT, WRITE, 2).signal == "SIGSEGV"
        assert world.mprotect(one, AT, PAGE, RW) == Outcome()
    assert world.pkey_mprotect(plain, AT, PAGE, READ, 1) == Outcome()
    assert [each.key for each in plain.mappings] == [1, 0]
    # A key that the process does not have.
    for process in (one, plain):
        assert world.pkey_mprotect(process, AT, PAGE, READ, 2).errno == errno.EINVAL


@pytest.mark.parametrize("granules", [1, 4])
def test_a_sealed_mapping_stays(world: World, granules: int) -> None:
    one, other = world.guest(), world.guest()
    world.does(one, AT, WRITE, 1)
    assert world.mseal(one, AT, granules * GRANULE) == Outcome()
    opened = OpenFile(world.data)
    for outcome in (
        world.munmap(one, AT, GRANULE),
        world.mmap(one, AT, GRANULE, RW, opened),
        world.mmap(one, AT - GRANULE, 2 * GRANULE, RW, opened, shared_pt=True),
        world.mremap(one, AT, GRANULE, GRANULE, AT + GIB),
        world.mprotect(one, AT, PAGE, READ),
    ):
        assert outcome == Outcome(-1, errno.EPERM)
    assert world.does(one, AT, WRITE, 2) == Outcome(2)
    plain = world.plain()
    assert world.mseal(plain, AT, PAGE) == Outcome()
    for start, number in ((AT, errno.EPERM), (AT + PAGE, 0)):
        assert world.mprotect(plain, start, PAGE, READ).errno == number
    # Protection is everyone's: another one can still change it.
    assert world.mprotect(other, AT, PAGE, NONE) == Outcome()
    assert world.does(one, AT, READ).signal == "SIGSEGV"
    assert world.mremap(other, AT, GRANULE, GRANULE, AT + GIB) == Outcome(AT + GIB)
    # A child is sealed as well; nothing keeps a process from ending.
    child = world.fork(one)
    assert world.munmap(child, AT, GRANULE).errno == errno.EPERM
    world.exit(one)
    world.exec(child)
    assert list(broken(world)) == []


def test_seals_split_at_granules(world: World) -> None:
    one = world.guest()
    assert world.mseal(one, AT, PAGE).errno == errno.EINVAL
    assert world.mseal(one, AT + 1, PAGE).errno == errno.EINVAL
    assert world.mseal(one, AT, 5 * GRANULE).errno == errno.ENOMEM
    assert not any(each.sealed for each in one.mappings)
    # Over a sealed one that would be cut: what the cut says comes first.
    assert world.mseal(one, AT, GRANULE) == Outcome()
    assert world.munmap(one, AT, PAGE).errno == errno.EINVAL


def test_memory_that_was_writable_is_not_made_executable(world: World) -> None:
    one, plain = world.process(), world.plain()
    opened = OpenFile(world.data)
    for process in (one, plain):
        assert world.set_mdwe(process) == Outcome()
        for shared in (True, False):
            outcome = world.mmap(process, AT + GIB, GRANULE, RWX, opened, shared_pt=shared)
            assert outcome.errno == errno.EACCES
    assert world.mmap(one, AT, GRANULE, RW, opened, shared_pt=True).errno == 0
    assert world.mmap(one, AT + GIB, GRANULE, RX, opened, shared_pt=True).errno == 0
    for process in (one, plain):
        for prot in (RX, RWX, EXECUTE):
            assert world.mprotect(process, AT, PAGE, prot).errno == errno.EACCES
        assert world.mprotect(process, AT, PAGE, READ) == Outcome()
        assert world.mprotect(process, AT, PAGE, RX).errno == errno.EACCES
    assert world.mprotect(one, AT + GIB, PAGE, RX) == Outcome()
    assert world.mprotect(one, AT + GIB, PAGE, RWX).errno == errno.EACCES
    assert world.does(one, AT + GIB, EXECUTE).signal == ""


def test_who_has_denied_it_to_himself_is_in_a_class_with_his_like(world: World) -> None:
    careless, careful, like = world.guest(), world.process(), world.process()
    opened = OpenFile(world.data)
    for process in (careful, like):
        world.set_mdwe(process)
        world.mmap(process, AT, GRANULE, RW, opened, shared_pt=True)
    assert len(world.domains) == 2
    assert world.mprotect(careless, AT, PAGE, RWX) == Outcome()
    assert world.does(careful, AT, EXECUTE).signal == "SIGSEGV"
    # Also a child that has not inherited it, as PR_MDWE_NO_INHERIT lets it.
    child = world.fork(like)
    child.mdwe = False
    assert world.mprotect(child, AT, PAGE, RX).errno == errno.EACCES
    # What is mapped stays where it is.
    world.set_mdwe(careless)
    assert world.does(careless, AT, EXECUTE, cpu=1).signal == ""
    assert world.mprotect(careless, AT, PAGE, RWX).errno == errno.EACCES
    assert world.mprotect(careless, AT, PAGE, RX) == Outcome()
    assert len(world.domains) == 2


def test_bad_ranges(world: World) -> None:
    one = world.guest()
    assert world.mprotect(one, AT + 1, PAGE, READ).errno == errno.EINVAL
    assert world.mprotect(one, AT, 0, READ) == Outcome()
    assert world.mprotect(one, AT - PAGE, 2 * PAGE, READ).errno == errno.ENOMEM
    assert world.does(one, AT, WRITE, 1).signal == ""


def test_across_mappings_and_windows(world: World) -> None:
    """One after the other, as mprotect(2) does: what stands before one that is refused has changed."""
    one = world.process()
    for n, writable in enumerate((True, False, True)):
        opened = OpenFile(world.data, writable)
        world.mmap(one, AT + n * GRANULE, GRANULE, READ, opened, n * GRANULE, shared_pt=True)
    assert world.mprotect(one, AT, 3 * GRANULE, RW).errno == errno.EACCES
    signals = [world.does(one, AT + n * GRANULE, WRITE).signal for n in range(3)]
    assert signals == ["", "SIGSEGV", "SIGSEGV"]
    assert world.mprotect(one, AT + 2 * GRANULE, 2 * GRANULE, RW).errno == errno.ENOMEM
    assert world.does(one, AT + 2 * GRANULE, WRITE).signal == ""


@pytest.mark.parametrize("ends", ["exec", "kill", "exit"])
def test_detached(world: World, ends: str) -> None:
    one, other = world.guest(), world.guest()
    world.does(one, AT, WRITE, 1)
    world.does(other, AT, READ, cpu=1)
    assert getattr(world, ends)(one) == Outcome()
    assert list(broken(world)) == []
    assert world.does(other, AT, READ, cpu=1) == Outcome(1)
    assert world.domains[0].guests == 1
    if ends == "exec":
        assert world.does(one, AT, READ).signal == "SIGSEGV"
    getattr(world, ends)(other)
    assert (world.domains, world.page_tables().all) == ([], 0)


def test_what_a_process_has_denied_itself_stays_over_exec(world: World) -> None:
    one = world.process()
    world.set_mdwe(one)
    world.exec(one)
    opened = OpenFile(world.data)
    assert world.mmap(one, AT, GRANULE, RWX, opened, shared_pt=True).errno == errno.EACCES
    assert world.mmap(world.fork(one), AT, GRANULE, RWX, opened).errno == errno.EACCES
