# SPDX-License-Identifier: MIT
"""The model does what docs/contract.md says, call by call."""

import errno

import pytest
from spec_world import AT, RW, World

from ptshare.spec.entries import GIB, GRANULE, PAGE
from ptshare.spec.faults import populate
from ptshare.spec.files import OpenFile
from ptshare.spec.invariants import broken
from ptshare.spec.shows import vm_shared_pt
from ptshare.spec.system import EXECUTE, NONE, READ, WRITE, Outcome


@pytest.fixture
def world() -> World:
    return World()


def test_a_further_process_takes_one_fault_for_what_is_around(world: World) -> None:
    """Aligned granules, of its own mapping, that the host has tables of."""
    world.large = True
    large, far = world.file("large", 40 * GRANULE), AT + 8 * GIB
    first, second = (
        world.guest(file=large, granules=40),
        world.guest(file=large, granules=40, at=far + GRANULE),
    )
    assert populate(world, first, AT, 32 * GRANULE).faults == 32
    granules = (0, 1, 14, 15, 14, 31, 30, 32)
    faults = [world.does(second, far + GRANULE + n * GRANULE, READ).faults for n in granules]
    assert faults == [1, 0, 0, 1, 0, 1, 0, 1]
    assert (world.vm_pte(second).pte, world.shared_tables().pte) == (0, 33)
    assert vm_shared_pt(second) == 33 * GRANULE


def test_whole_gibs_take_one_fault(world: World) -> None:
    world.large = True
    large = world.file("large", 2 * GIB)
    first, second = world.guest(file=large, granules=1024), world.guest(file=large, granules=1024)
    populate(world, first, AT, 2 * GIB)
    # On this one the CPU holds nothing yet; with a GiB linked no other page faults.
    faults = [world.does(second, AT + n * 64 * GRANULE, READ).faults for n in range(16)]
    assert faults == [1, 0, 0, 0, 0, 0, 0, 0] * 2
    assert world.vm_pte(second) == (0, 0, 1)


def test_whole_gibs_that_are_there_take_none(world: World) -> None:
    """A process that comes later, by mmap or by fork, finds them linked; but not by granules."""
    world.large = True
    large = world.file("large", 4 * GIB)
    first = world.guest(file=large, granules=1536)
    for n in (0, 512, 1400):
        world.does(first, AT + n * GRANULE, READ)
    joins, shifted = (
        world.guest(file=large, granules=1025),
        world.guest(file=large, granules=1536, at=AT + GRANULE),
    )
    child = world.fork(joins)
    for process in (joins, child):
        assert vm_shared_pt(process) == 2 * GIB
        faults = [world.does(process, AT + n * GRANULE, READ, cpu=1).faults for n in (0, 512, 1024)]
        assert faults == [0, 0, 1]
    assert (vm_shared_pt(shifted), world.vm_pte(shifted)) == (0, (0, 0, 0))
    assert list(broken(world)) == []


def test_what_one_writes_others_read(world: World) -> None:
    one, other = world.guest(), world.guest(at=AT + GRANULE)
    assert world.does(one, AT + 5 * PAGE, WRITE, 42).signal == ""
    assert world.does(other, AT + GRANULE + 5 * PAGE, READ, cpu=1).value == 42


def test_protection_is_everyones(world: World) -> None:
    one, other, reader = world.guest(), world.guest(), world.guest(READ, writable=False)
    for number, process in enumerate((one, other)):
        assert world.does(process, AT, WRITE, 1, cpu=number).signal == ""
    assert world.mprotect(one, AT, PAGE, READ) == Outcome()
    # No CPU uses the former right, though this one held it.
    assert world.does(other, AT, WRITE, 2, cpu=1).signal == "SIGSEGV"
    assert world.does(other, AT + PAGE, WRITE, 2, cpu=1).signal == ""
    assert world.does(world.guest(), AT, WRITE, 2, cpu=2).signal == "SIGSEGV"
    assert world.does(reader, AT, READ, cpu=3).value == 1
    assert world.mprotect(other, AT, PAGE, NONE) == Outcome()
    assert world.does(one, AT, READ).signal == "SIGSEGV"
    assert world.mprotect(other, AT, PAGE, RW) == Outcome()
    assert world.does(one, AT, WRITE, 3).signal == ""


def test_a_reader_changes_nothing_for_others(world: World) -> None:
    one, reader = world.guest(READ), world.guest(READ, writable=False)
    assert world.mprotect(reader, AT, PAGE, NONE).errno == errno.EACCES
    assert world.mprotect(reader, AT, PAGE, RW).errno == errno.EACCES
    assert world.does(one, AT, READ).signal == world.does(reader, AT, READ).signal == ""
    # Two classes: what each may ever do differs.
    assert len(world.domains) == 2
    assert world.does(one, AT, WRITE).signal == "SIGSEGV"


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ({"length": GRANULE + PAGE}, errno.EINVAL),
        ({"length": 0}, errno.EINVAL),
        ({"start": AT + PAGE}, errno.EINVAL),
        ({"offset": PAGE}, errno.EINVAL),
        ({"offset": 1 << 47}, errno.EOVERFLOW),
        ({"opened": "reader"}, errno.EACCES),
        ({"opened": "noexec", "prot": READ | EXECUTE}, errno.EPERM),
        ({"opened": "sealed"}, errno.EPERM),
    ],
)
def test_what_mmap_refuses(world: World, arguments: dict[str, object], number: int) -> None:
    process = world.process()
    sealed = world.file("sealed", GRANULE)
    sealed.sealed_write = True
    files = {
        "reader": OpenFile(world.data, writable=False),
        "noexec": OpenFile(world.data, no_execute=True),
        "sealed": OpenFile(sealed),
        None: OpenFile(world.data),
    }
    opened = files[arguments.pop("opened", None)]  # type: ignore[index]
    call = {"start": AT, "length": GRANULE, "prot": RW, "offset": 0, **arguments}
    assert world.mmap(process, opened=opened, shared_pt=True, **call) == Outcome(-1, number)  # type: ignore[arg-type]
    assert (process.mappings, world.domains) == ([], [])


def test_parts_of_granules_stay(world: World) -> None:
    process = world.guest()
    populate(world, process, AT, 4 * GRANULE)
    for start, length in ((AT + PAGE, GRANULE), (AT, GRANULE + PAGE), (AT - PAGE, 2 * PAGE)):
        assert world.munmap(process, start, length).errno == errno.EINVAL
        assert world.mmap(process, start, length, RW, OpenFile(world.data)).errno == errno.EINVAL
    assert process.mappings[0].length == 4 * GRANULE
    assert world.munmap(process, AT + GRANULE, GRANULE) == Outcome()
    assert [(one.start, one.length) for one in process.mappings] == [
        (AT, GRANULE),
        (AT + 2 * GRANULE, 2 * GRANULE),
    ]
    assert world.does(process, AT + GRANULE, READ).signal == "SIGSEGV"
    assert world.does(process, AT + 2 * GRANULE, READ).faults == 0


def test_with_the_last_guest_the_tables_go(world: World) -> None:
    one, other = world.guest(), world.guest()
    child = world.fork(one)
    populate(world, one, AT, 4 * GRANULE)
    assert world.vm_pte(child).all == 0
    world.exit(one)
    assert world.does(child, AT, READ).faults == 1
    assert world.munmap(other, AT, 4 * GRANULE) == Outcome()
    assert world.shared_tables().pte == 4
    world.exit(child)
    assert world.page_tables().all == 0
    assert world.domains == []


def test_advice_takes_the_callers_links_alone(world: World) -> None:
    one, other = world.guest(), world.guest()
    for process in (one, other):
        populate(world, process, AT, 4 * GRANULE)
    assert world.madvise(one, AT, GRANULE + PAGE, "DONTNEED") == Outcome()
    assert [world.does(one, AT + n * GRANULE, READ).faults for n in range(3)] == [1, 0, 0]
    assert world.does(other, AT, READ).faults == 0


def test_the_file_changes_for_everyone(world: World) -> None:
    one, other = world.guest(), world.guest(READ, writable=False)
    world.does(one, AT + GRANULE, WRITE, 7)
    assert world.does(other, AT + GRANULE, READ, cpu=1).value == 7
    world.punch(world.data, 512, 513)
    assert world.does(other, AT + GRANULE, READ, cpu=1).value == 0
    world.truncate(world.data, GRANULE)
    for cpu, process in enumerate((one, other)):
        assert world.does(process, AT + GRANULE, READ, cpu=cpu).signal == "SIGBUS"
    world.truncate(world.data, 4 * GRANULE)
    assert world.does(one, AT + GRANULE, READ).value == 0


def test_a_write_after_fsync_is_found(world: World) -> None:
    one, other = world.guest(), world.guest()
    world.does(one, AT, READ)
    # Who only reads makes nothing dirty.
    assert world.fsync(world.data) == 0
    assert world.does(one, AT, WRITE, 1).faults == 1
    world.does(other, AT, WRITE, 2, cpu=1)
    assert (world.fsync(world.data), world.fsync(world.data)) == (1, 0)
    # The CPU that held a dirty, writable entry asks again.
    assert world.does(other, AT, WRITE, 3, cpu=1).faults == 1
    assert world.fsync(world.data) == 1


def test_pages_that_were_reclaimed_or_moved_come_back(world: World) -> None:
    one, other = world.guest(), world.guest()
    world.does(one, AT, WRITE, 9)
    world.does(other, AT, READ, cpu=1)
    for moved in (False, True):
        before = world.data.frame(0)
        if moved:
            world.migrate(world.data, 0)
        else:
            world.reclaim(world.data, 0, 2048)
        assert list(broken(world)) == []
        assert world.does(other, AT, READ, cpu=1).value == 9
        assert world.data.frame(0) != before
        # One fault for both: they have one table.
        assert world.does(one, AT, READ).faults == 0


def test_ordinary_mappings_have_tables_of_their_own(world: World) -> None:
    guest, plain = world.guest(), world.process()
    assert world.mmap(plain, AT, 4 * GRANULE, RW, OpenFile(world.data)).errno == 0
    world.does(guest, AT, WRITE, 4)
    assert world.does(plain, AT, READ, cpu=1).value == 4
    assert world.does(plain, AT, WRITE, 4, cpu=1).signal == ""
    assert (world.vm_pte(plain).pte, world.vm_pte(guest).pte) == (1, 0)
    assert world.mprotect(plain, AT, PAGE, READ) == Outcome()
    assert world.does(guest, AT, WRITE, 5).signal == ""
    assert world.does(plain, AT, WRITE, 5, cpu=1).signal == "SIGSEGV"


def test_a_part_of_a_linked_gib(world: World) -> None:
    """Advice on a part of it: the rest is linked again, and no more is taken from the caller than a fault."""
    world.large = True
    large = world.file("large", 2 * GIB)
    one, other = world.guest(file=large, granules=1024), world.guest(file=large, granules=1024)
    for process in (one, other):
        populate(world, process, AT, 2 * GIB)
    world.does(one, AT + 3 * GRANULE, READ, cpu=2)
    assert world.munmap(one, AT, GRANULE) == Outcome()
    # The link has gone: so have translations of all that it led to.
    assert world.cpus[2].tlb == {}
    assert world.does(one, AT, READ).signal == "SIGSEGV"
    # No whole GiB any more: by granules.
    assert [world.does(one, AT + n * GRANULE, READ).faults for n in (1, 2, 15, 16, 512)] == [1, 0, 0, 1, 0]
    assert world.vm_pte(one) == (0, 1, 1)
    assert world.does(other, AT, READ, cpu=1).faults == 0


def test_a_linked_table_is_not_linked_again(world: World) -> None:
    """A page that is missing in a linked table is one fault, of whoever comes first, and no link goes for
    it."""
    one, other = world.guest(), world.guest()
    assert [world.does(one, AT, READ).faults, world.does(other, AT, READ, cpu=1).faults] == [1, 1]
    before = list(one.tables.links())
    assert [world.does(other, AT + PAGE, READ, cpu=1).faults, world.does(one, AT + PAGE, READ).faults] == [
        1,
        0,
    ]
    assert list(one.tables.links()) == before


def test_what_was_written_once_is_no_right(world: World) -> None:
    """A page that was dirty when writing was taken away is not written to when it can be executed or read
    again."""
    one = world.guest()
    world.does(one, AT, WRITE, 1)
    for prot in (READ, NONE, READ | EXECUTE):
        assert world.mprotect(one, AT, PAGE, prot) == Outcome()
        assert world.does(one, AT, WRITE, 2).signal == "SIGSEGV"
    assert world.does(one, AT, EXECUTE).signal == ""


def test_pages_in_memory_are_runs(world: World) -> None:
    """What is taken out of the middle leaves the frames of the others."""
    file = world.data
    file.bring_in(0, 100)
    frames = [file.frame(page) for page in range(100)]
    file.drop(10, 20)
    assert [file.frame(page) for page in range(100)] == frames[:10] + [None] * 10 + frames[20:]
    file.bring_in(5, 10)
    assert [file.frame(page) for page in range(10)] == frames[:10]
    assert len({file.frame(page) for page in range(15)}) == 15
    assert file.frame(15) is None
