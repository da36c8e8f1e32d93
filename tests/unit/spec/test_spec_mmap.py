# SPDX-License-Identifier: MIT
"""mmap of the model: what is asked for, what is refused, and what a new mapping takes over."""

import errno
from typing import Any

import pytest
from spec_world import AT, RW, World

from ptshare.spec.address_space import congruent
from ptshare.spec.entries import GIB, GRANULE, PAGE
from ptshare.spec.faults import populate
from ptshare.spec.files import OpenFile
from ptshare.spec.invariants import broken
from ptshare.spec.shows import present
from ptshare.spec.state import EXECUTE, NONE, READ, WRITE, Outcome


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("more", "number"),
    [
        ({"private": True}, errno.EINVAL),
        ({"huge": True}, errno.EOPNOTSUPP),
        ({"kind": "hugetlb"}, errno.EOPNOTSUPP),
        ({"kind": "dax"}, errno.EOPNOTSUPP),
        ({"kind": "device"}, errno.EOPNOTSUPP),
        ({"readable": False}, errno.EACCES),
        # Of several errors the kernel's first.
        ({"kind": "device", "length": PAGE}, errno.EINVAL),
        ({"enabled": False, "length": PAGE}, errno.EOPNOTSUPP),
        ({"private": True, "enabled": False}, errno.EINVAL),
        ({"readable": False, "offset": 1 << 47}, errno.EOVERFLOW),
        ({"start": 1 << 47}, errno.ENOMEM),
    ],
)
def test_refused(world: World, more: dict[str, Any], number: int) -> None:
    file = world.file("other", GRANULE, kind=more.pop("kind", "page cache"))
    world.enabled = more.pop("enabled", True)
    opened = OpenFile(file, readable=more.pop("readable", True))
    call = {"start": AT, "length": GRANULE, "prot": READ, "offset": 0, **more}
    process = world.process()
    assert world.mmap(process, opened=opened, shared_pt=True, **call) == Outcome(-1, number)
    assert (process.mappings, world.domains) == ([], [])


def test_switched_off(world: World) -> None:
    """New mappings are refused, standing ones go on, and so do their children."""
    guest, process = world.guest(), world.process()
    world.enabled = False
    outcome = world.mmap(process, AT, GRANULE, READ, OpenFile(world.data), shared_pt=True)
    assert outcome.errno == errno.EOPNOTSUPP
    assert world.does(world.fork(guest), AT, WRITE, 1).signal == ""
    assert world.mmap(process, AT, GRANULE, READ, OpenFile(world.data)).errno == 0
    assert world.mremap(guest, AT, 4 * GRANULE, 4 * GRANULE, AT + GIB) == Outcome(AT + GIB)


def test_a_kernel_without_it(world: World) -> None:
    world.supported = False
    process, opened = world.process(), OpenFile(world.data)
    assert world.mmap(process, AT, PAGE, READ, opened, shared_pt=True).errno == errno.EOPNOTSUPP
    assert world.mmap(process, AT, PAGE, READ, opened, shared_pt=True, validate=False) == Outcome(AT)
    assert process.mappings[0].domain is None


def test_fixed_and_nothing_replaced(world: World) -> None:
    process, opened = world.guest(), OpenFile(world.data)
    for start in (AT, AT + 3 * GRANULE, AT - GRANULE):
        outcome = world.mmap(
            process, start, 2 * GRANULE, RW, opened, shared_pt=True, noreplace=True, validate=False
        )
        assert outcome == Outcome(-1, errno.EEXIST)
    start = AT + 4 * GRANULE
    assert world.mmap(process, start, GRANULE, RW, opened, noreplace=True, validate=False) == Outcome(start)
    outcome = world.mmap(process, start + GRANULE, GRANULE, RW, opened, noreplace=True)
    assert outcome == Outcome(-1, errno.EOPNOTSUPP)
    outcome = world.mmap(
        process, AT + PAGE, GRANULE, RW, opened, shared_pt=True, noreplace=True, validate=False
    )
    assert outcome == Outcome(-1, errno.EINVAL)


@pytest.mark.parametrize("size", [GRANULE, GIB - GRANULE, GIB, 3 * GIB])
@pytest.mark.parametrize("offset", [0, GRANULE, GIB, 7 * GIB + 5 * GRANULE])
def test_a_chosen_address_is_congruent(world: World, size: int, offset: int) -> None:
    process, opened = world.process(), OpenFile(world.file("large", 16 * GIB))
    for _ in range(3):
        found = world.mmap(process, None, size, READ, opened, offset, shared_pt=True)
        assert found.errno == 0
        assert congruent(found.value, size, offset)
        assert (found.value - offset) % (GIB if size >= GIB else GRANULE) == 0
    assert list(broken(world)) == []
    assert [congruent(at, GIB, 0) for at in (GRANULE, GIB + GRANULE, GIB)] == [False, False, True]
    assert [congruent(at, GRANULE, 0) for at in (PAGE, GRANULE)] == [False, True]


def test_a_hint(world: World) -> None:
    process, opened = world.process(), OpenFile(world.data)
    for hint, taken in ((AT, True), (AT + PAGE, False), (AT, False), (AT + 3, False)):
        found = world.mmap(process, None, GRANULE, READ, opened, shared_pt=True, hint=hint)
        assert found.errno == 0
        assert (found.value == hint) is taken


def test_anonymous_memory(world: World) -> None:
    """A file without a name, that parent and child share, and that is gone with them."""
    process = world.process()
    files = len(world.files)
    assert world.mmap(process, AT, 2 * GRANULE, RW, None, shared_pt=True) == Outcome(AT)
    # Its offset says nothing, but must be one.
    assert world.mmap(process, AT + GIB, GRANULE, RW, None, 1, shared_pt=True).errno == errno.EINVAL
    assert world.mmap(process, AT + GIB, 2 * GRANULE, RW, None, PAGE, shared_pt=True) == Outcome(AT + GIB)
    child = world.fork(process)
    assert len(world.domains) == 2
    assert world.does(process, AT, WRITE, 5).signal == ""
    assert world.does(child, AT, READ, cpu=1) == Outcome(5, faults=1)
    assert world.does(child, AT + GIB, READ, cpu=1).value == 0
    world.exit(process)
    assert world.does(child, AT, READ, cpu=1).value == 5
    world.exit(child)
    assert len(world.files) == files
    length = (1 << 47) - GRANULE
    assert world.mmap(world.process(), AT, length, RW, None, shared_pt=True).errno == errno.EOVERFLOW


def test_what_was_present_stays_so(world: World) -> None:
    """In the place of an own ordinary mapping of the same part of the file."""
    process, opened = world.plain(), OpenFile(world.data)
    pages = [0, 7, 511, 512, 2047]
    for page in pages:
        world.does(process, AT + page * PAGE, WRITE, page + 1)
    assert world.mmap(process, AT, 4 * GRANULE, RW, opened, shared_pt=True) == Outcome(AT)
    assert list(broken(world)) == []
    # A link is one fault, and takes those around it along; no page that was there is one.
    faults = [world.does(process, AT + page * PAGE, READ).faults for page in pages]
    assert faults == [1, 0, 0, 0, 0]
    assert [world.does(process, AT + page * PAGE, READ).value for page in pages] == [1, 8, 512, 513, 2048]
    assert [present(process, AT + page * PAGE) for page in (1, 513)] == [False, False]


def test_another_part_is_not_taken_over(world: World) -> None:
    """Nor another file, nor what a guest had, nor what nobody may have by the protection in force."""
    process, opened = world.plain(), OpenFile(world.data)
    world.does(process, AT, WRITE, 1)
    world.mmap(process, AT, 2 * GRANULE, RW, opened, GRANULE, shared_pt=True)
    assert world.shared_tables().pte == 0
    other = world.file("other", GRANULE)
    for file, taken in ((other, False), (world.data, True)):
        one = world.plain(at=AT + GIB)
        world.does(one, AT + GIB, READ)
        world.mmap(one, AT + GIB, GRANULE, RW, OpenFile(file), shared_pt=True)
        [domain] = [domain for domain in world.domains if domain.file is file]
        assert bool(domain.tables.walk(1 << 39)) is taken
    guest = world.guest()
    world.mprotect(guest, AT + GRANULE, PAGE, NONE)
    last = world.plain()
    for page in (0, 512, 513):
        world.does(last, AT + page * PAGE, READ)
    world.mmap(last, AT, 4 * GRANULE, RW, opened, shared_pt=True)
    assert guest.mappings[0].domain is not None
    taken_over = [address // PAGE & 0xFFFF for address, _ in guest.mappings[0].domain.tables.pages()]
    # It ends with the first one that nobody may have.
    assert taken_over == [0]
    assert world.does(last, AT + GRANULE, READ).signal == "SIGSEGV"


def test_the_last_guest_over_itself_is_the_first_of_a_new_domain(world: World) -> None:
    process = world.guest()
    world.mprotect(process, AT, PAGE, READ)
    world.mmap(process, AT, 4 * GRANULE, RW, OpenFile(world.data), shared_pt=True)
    assert world.does(process, AT, WRITE, 1).signal == ""


def test_lengths_of_ordinary_mappings_are_rounded_up(world: World) -> None:
    process = world.process()
    assert world.mmap(process, AT, 5, READ, OpenFile(world.data)) == Outcome(AT)
    assert process.mappings[0].length == PAGE
    assert world.mmap(process, AT + 5, PAGE, READ, OpenFile(world.data)).errno == errno.EINVAL


def test_populate(world: World) -> None:
    """One process fills the tables for all; what cannot be had does not matter."""
    process, other = world.process(), world.guest()
    opened = OpenFile(world.data)
    outcome = world.mmap(process, AT, 5 * GRANULE, RW, opened, shared_pt=True, populate=True)
    assert outcome == Outcome(AT)
    assert world.does(process, AT, READ).faults == 0
    assert [world.does(other, AT + n * PAGE, READ).faults for n in range(3)] == [1, 0, 0]


def test_seals(world: World) -> None:
    """Put on later they leave what stands, and new mappings are of another class."""
    guest = world.guest()
    assert world.seal(world.data, "write").errno == errno.EBUSY
    assert world.seal(world.data, "future_write") == Outcome()
    assert world.does(guest, AT, WRITE, 1).signal == ""
    opened = OpenFile(world.data)
    late = world.process()
    assert world.mmap(late, AT, GRANULE, RW, opened, shared_pt=True).errno == errno.EPERM
    assert world.mmap(late, AT, GRANULE, READ, opened, shared_pt=True).errno == 0
    assert len(world.domains) == 2
    assert world.mprotect(late, AT, PAGE, RW).errno == errno.EACCES
    assert world.punch(world.data, 0, 1).errno == errno.EPERM
    assert world.does(late, AT, READ, cpu=1).value == 1
    world.exit(guest)
    assert world.seal(world.data, "write") == Outcome()
    for name, size in (("shrink", GRANULE), ("grow", 5 * GRANULE)):
        assert world.seal(world.data, name) == Outcome()
        assert world.truncate(world.data, size).errno == errno.EPERM
    assert world.data.size == 4 * GRANULE


def test_noexec_is_a_class(world: World) -> None:
    one, other = world.guest(), world.process()
    opened = OpenFile(world.data, no_execute=True)
    assert world.mmap(other, AT, GRANULE, RW, opened, shared_pt=True).errno == 0
    assert len(world.domains) == 2
    assert world.mprotect(one, AT, PAGE, READ | EXECUTE) == Outcome()
    assert world.does(one, AT, EXECUTE).signal == ""
    assert world.does(other, AT, EXECUTE, cpu=1).signal == "SIGSEGV"
    assert world.mprotect(other, AT, PAGE, READ | EXECUTE).errno == errno.EACCES


def test_a_file_that_has_lost_its_name_stays(world: World) -> None:
    one, other = world.guest(), world.guest()
    world.does(one, AT, WRITE, 3)
    assert world.unlink(world.data) == Outcome()
    assert world.does(other, AT, READ, cpu=1).value == 3


def test_beyond_the_end_until_it_is_extended(world: World) -> None:
    small = world.file("small", PAGE)
    one, other = world.guest(file=small), world.guest(file=small)
    assert world.does(one, AT + 2 * PAGE, READ).signal == "SIGBUS"
    assert world.does(one, AT, READ).signal == ""
    world.truncate(small, 3 * PAGE)
    assert world.does(one, AT + 2 * PAGE, WRITE, 4).signal == ""
    assert world.does(other, AT + 2 * PAGE, READ, cpu=1).value == 4
    assert populate(world, other, AT, 4 * GRANULE).signal == "SIGBUS"


def test_tables_of_the_hosts_are_made_for_what_is_there(world: World) -> None:
    """Beyond the end of the file an ordinary fault makes those above the page's, a guest's none."""
    one, plain = world.guest(granules=5), world.process()
    world.mmap(plain, AT, 5 * GRANULE, READ, OpenFile(world.data))
    for process in (one, plain):
        assert world.does(process, AT + 4 * GRANULE, READ).signal == "SIGBUS"
    assert world.vm_pte(plain) == (0, 1, 1)
    assert world.shared_tables() == world.vm_pte(one) == (0, 0, 0)


def test_remap_file_pages(world: World) -> None:
    guest, plain = world.guest(), world.plain()
    for length in (PAGE, GRANULE):
        assert world.remap_file_pages(guest, AT, length, 512).errno == errno.EINVAL
    assert len(guest.mappings) == 1
    assert world.remap_file_pages(plain, AT, PAGE, 5) == Outcome()
    world.does(guest, AT + 5 * PAGE, WRITE, 6)
    assert world.does(plain, AT, READ, cpu=1).value == 6
    reader = world.plain(READ, writable=False)
    assert world.remap_file_pages(reader, AT, PAGE, 5).errno == errno.EINVAL


def test_userfaultfd(world: World) -> None:
    guest, plain = world.guest(), world.plain()
    assert world.userfaultfd_register(guest, AT, GRANULE).errno == errno.EINVAL
    assert world.userfaultfd_register(plain, AT, GRANULE) == Outcome()
    assert world.userfaultfd_register(plain, AT - GIB, GRANULE).errno == errno.EINVAL
