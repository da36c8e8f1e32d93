# SPDX-License-Identifier: MIT
"""Asking for shared page tables: what mmap(2) grants, at which addresses, and what it refuses."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import calls
import pytest
from calls import GIB, GRANULE, MAP_ANONYMOUS, MAP_FIXED, MAP_SHARED, PAGE, RW, SHARED_PT, R

from held import sharing
from ptshare import abi
from ptshare.counters import SharingCounters


@pytest.fixture
def fd() -> Iterator[int]:
    with calls.memfd(8 * GRANULE) as fd:
        yield fd


@contextmanager
def switched(value: str) -> Iterator[None]:
    switch = Path(abi.SYSFS, "enabled")
    switch.write_text(value)
    try:
        yield
    finally:
        switch.write_text("1")


@pytest.mark.parametrize("flags", [SHARED_PT, calls.SHARED_PT_VALIDATED])
def test_granted(fd: int, flags: int, idle: SharingCounters) -> None:
    with calls.mapped(8 * GRANULE, RW, flags, fd) as at:
        assert at % GRANULE == 0
        assert sharing().guests == idle.guests + 1
        assert sharing().domains == idle.domains + 1


def test_granted_on_each_file_system(directory: Path, idle: SharingCounters) -> None:
    path = directory / "file"
    path.write_bytes(b"x" * 2 * GRANULE)
    file = os.open(path, os.O_RDWR)
    try:
        with calls.mapped(2 * GRANULE, RW, SHARED_PT, file) as at:
            assert sharing().guests == idle.guests + 1
            calls.touch(at, 2 * GRANULE)
            calls.store(at, GRANULE)
    finally:
        os.close(file)
    assert path.read_bytes()[PAGE] == 1


def test_granted_for_anonymous_memory(idle: SharingCounters) -> None:
    with calls.mapped(2 * GRANULE, RW, SHARED_PT | MAP_ANONYMOUS) as at:
        calls.store(at, 2 * GRANULE)
        assert sharing().guests == idle.guests + 1
        assert sharing().tables > idle.tables


@pytest.mark.parametrize("offset", [0, GRANULE, 3 * GRANULE])
def test_an_address_congruent_to_the_offset(offset: int) -> None:
    with (
        calls.memfd(2 * GIB) as fd,
        calls.mapped(GIB, R, SHARED_PT, fd, offset) as large,
        calls.mapped(GRANULE, R, SHARED_PT, fd, offset) as small,
    ):
        assert (large - offset) % GIB == 0
        assert small % GRANULE == 0


def test_a_hint_is_taken_where_it_fits(fd: int) -> None:
    area = calls.free_area(4 * GRANULE, GRANULE)
    with calls.mapped(GRANULE, R, SHARED_PT, fd, addr=area) as at:
        assert at == area
        # What is there already is not replaced.
        with calls.mapped(GRANULE, R, SHARED_PT, fd, addr=area) as other:
            assert other != area
    with calls.mapped(GRANULE, R, SHARED_PT, fd, addr=area + PAGE) as at:
        assert at % GRANULE == 0


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        ("EINVAL", {"flags": calls.MAP_PRIVATE | abi.MAP_SHARED_PT}),
        ("EINVAL", {"flags": calls.MAP_PRIVATE | MAP_ANONYMOUS | abi.MAP_SHARED_PT, "fd": -1}),
        ("EINVAL", {"flags": abi.MAP_SHARED_PT}),
        ("EINVAL", {"length": PAGE}),
        ("EINVAL", {"length": GRANULE + PAGE}),
        ("EINVAL", {"length": GRANULE - 1}),
        ("EINVAL", {"length": 0}),
        ("EINVAL", {"offset": PAGE}),
        ("EINVAL", {"offset": 1}),
        ("EINVAL", {"flags": SHARED_PT | MAP_FIXED, "unaligned": PAGE}),
        ("EINVAL", {"flags": SHARED_PT | calls.MAP_FIXED_NOREPLACE, "unaligned": GRANULE // 2}),
        ("EOVERFLOW", {"offset": 1 << 60}),
        ("EBADF", {"fd": 999}),
        # As for any mapping: Linux knows the flag with MAP_SHARED only.
        ("EOPNOTSUPP", {"flags": calls.SHARED_PT_VALIDATED | calls.MAP_FIXED_NOREPLACE}),
        ("EOPNOTSUPP", {"flags": SHARED_PT | calls.MAP_HUGETLB}),
        ("EOPNOTSUPP", {"flags": SHARED_PT | calls.MAP_HUGETLB | MAP_ANONYMOUS, "fd": -1}),
    ],
)
def test_refused(fd: int, idle: SharingCounters, error: str, arguments: dict[str, int]) -> None:
    with calls.mapped(4 * GRANULE, RW, MAP_SHARED | MAP_ANONYMOUS) as spot:
        calls.store(spot, 4 * GRANULE, 7)
        aligned = (spot + GRANULE - 1) // GRANULE * GRANULE
        before = calls.shared_regions()
        call = {"length": GRANULE, "prot": RW, "flags": SHARED_PT, "fd": fd} | arguments
        if "unaligned" in call:
            call["addr"] = aligned + call.pop("unaligned")
        assert calls.error_of(calls.mmap, **call) == error
        assert calls.shared_regions() == before
        assert calls.peek(aligned + GRANULE) == 7
    assert sharing() == idle


def test_refused_while_switched_off(fd: int, idle: SharingCounters) -> None:
    with calls.mapped(GRANULE, RW, SHARED_PT, fd) as standing:
        with switched("0"):
            for flags in (SHARED_PT, calls.SHARED_PT_VALIDATED):
                assert calls.error_of(calls.mmap, GRANULE, RW, flags, fd) == "EOPNOTSUPP"
            # Standing ones go on, and so does fork.
            calls.store(standing, GRANULE)
            pid = os.fork()
            if pid == 0:
                os._exit(0 if calls.peek(standing) == 1 else 1)
            assert os.waitpid(pid, 0)[1] == 0
        assert sharing().guests == idle.guests + 1


def test_the_switch_takes_no_nonsense() -> None:
    assert calls.error_of(Path(abi.SYSFS, "enabled").write_text, "perhaps") == "EINVAL"
    assert Path(abi.SYSFS, "enabled").read_text() == "1\n"


def test_refused_for_huge_pages(idle: SharingCounters) -> None:
    fd = os.memfd_create("huge", os.MFD_HUGETLB)
    try:
        assert calls.error_of(calls.mmap, GRANULE, R, SHARED_PT, fd) == "EOPNOTSUPP"
    finally:
        os.close(fd)
    assert sharing() == idle


def test_refused_for_devices_and_sockets(idle: SharingCounters) -> None:
    for name in ("/dev/zero", "/dev/urandom"):
        with open(name, "rb") as file:
            assert calls.error_of(calls.mmap, GRANULE, R, SHARED_PT, file.fileno()) == "EOPNOTSUPP"
    with socket.socket() as sock:
        assert calls.error_of(calls.mmap, GRANULE, R, SHARED_PT, sock.fileno()) == "EOPNOTSUPP"
    assert sharing() == idle


def test_refused_for_a_devices_memory(idle: SharingCounters) -> None:
    """In sysfs it is a regular file, whose mmap has put pages into the tables by the time it is refused."""
    (device,) = (
        path.parent
        for path in Path("/sys/bus/pci/devices").glob("*/device")
        if path.read_text() == "0x0005\n" and (path.parent / "vendor").read_text() == "0x1b36\n"
    )
    with open(device / "resource2", "r+b", buffering=0) as file:
        fd = file.fileno()
        before = calls.shared_regions()
        for _ in range(2):
            assert calls.error_of(calls.mmap, 2 * GRANULE, RW, SHARED_PT, fd) == "EOPNOTSUPP"
        assert calls.shared_regions() == before
        with calls.mapped(2 * GRANULE, RW, MAP_SHARED, fd) as at:
            assert calls.poke(at + GRANULE, 1)
    assert sharing() == idle


def test_rights_are_those_of_the_descriptor(tmpfs: Path, idle: SharingCounters) -> None:
    path = tmpfs / "file"
    path.write_bytes(bytes(GRANULE))
    for flags, prot in ((os.O_RDONLY, RW), (os.O_WRONLY, R)):
        fd = os.open(path, flags)
        try:
            assert calls.error_of(calls.mmap, GRANULE, prot, SHARED_PT, fd) == "EACCES"
        finally:
            os.close(fd)
    assert sharing() == idle


def test_in_place_of_a_very_large_mapping() -> None:
    """What is behind the first TiB faults again: the kernel takes no more memory than for that to note it."""
    size = 1025 * GIB
    spots = [0, 1024 * GIB - PAGE, 1024 * GIB]
    with calls.memfd(size) as fd, calls.mapped(size, RW, MAP_SHARED, fd) as at:
        area = calls.mmap(size, RW, MAP_SHARED | MAP_FIXED, fd, 0, calls.free_area(size))
        for spot in spots:
            calls.poke(area + spot, 3)
        assert calls.mmap(size, RW, SHARED_PT | MAP_FIXED, fd, 0, area) == area
        assert [calls.present(area + spot) for spot in spots] == [True, True, False]
        assert {calls.peek(area + spot) for spot in spots} == {3}
        calls.munmap(area, size)
        assert calls.peek(at) == 3


def test_in_place_of_an_ordinary_mapping(directory: Path) -> None:
    """Pages that were present stay present, and cost no fault of their own."""
    path = directory / "file"
    path.write_bytes(os.urandom(4 * GRANULE))
    fd = os.open(path, os.O_RDWR)
    try:
        area = calls.free_area(4 * GRANULE)
        calls.mmap(4 * GRANULE, RW, MAP_SHARED | MAP_FIXED, fd, addr=area)
        calls.touch(area, 2 * GRANULE)
        calls.mmap(4 * GRANULE, RW, SHARED_PT | MAP_FIXED, fd, addr=area)
        # A link for each granule.
        assert calls.faults(area, 2 * GRANULE) <= 2
        assert calls.present(area + GRANULE + 77 * PAGE)
        calls.munmap(area, 4 * GRANULE)
    finally:
        os.close(fd)


def test_in_place_of_another_file(fd: int) -> None:
    """What was present of another file says nothing of this one."""
    with calls.memfd(GRANULE) as other, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as area:
        calls.munmap(area, 2 * GRANULE)
        calls.mmap(GRANULE, RW, MAP_SHARED | MAP_FIXED, other, addr=area)
        calls.store(area, GRANULE, 9)
        calls.mmap(GRANULE, RW, SHARED_PT | MAP_FIXED, fd, addr=area)
        assert calls.peek(area) == 0
        # A page of it touched makes pages around it present, but not those at the far end.
        assert not calls.present(area + 400 * PAGE)


def test_populate(fd: int) -> None:
    with (
        calls.mapped(GRANULE, RW, SHARED_PT | calls.MAP_POPULATE, fd) as at,
        calls.mapped(GRANULE, RW, SHARED_PT, fd) as other,
    ):
        assert calls.faults(at, GRANULE) <= 1
        # It filled the shared tables: another guest finds all of it behind one fault.
        calls.peek(other)
        assert calls.present(other + 511 * PAGE)


@pytest.mark.parametrize("advice", [calls.MADV_POPULATE_READ, calls.MADV_POPULATE_WRITE])
def test_madvise_populate(fd: int, advice: int) -> None:
    with (
        calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at,
        calls.mapped(GRANULE, RW, SHARED_PT, fd) as other,
    ):
        calls.madvise(at, GRANULE, advice)
        calls.peek(other)
        assert calls.present(other + 511 * PAGE)
        assert not calls.present(at + GRANULE)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda at: calls.remap_file_pages(at, GRANULE, 512), "EINVAL"),
        (lambda at: calls.madvise(at, GRANULE, 14), "EINVAL"),  # MADV_HUGEPAGE
        (lambda at: calls.madvise(at, GRANULE, calls.MADV_COLLAPSE), "EINVAL"),
    ],
    ids=["remap_file_pages", "MADV_HUGEPAGE", "MADV_COLLAPSE"],
)
def test_refused_on_a_guest(fd: int, call: object, error: str) -> None:
    with calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
        calls.store(at, 2 * GRANULE, 3)
        before = calls.shared_regions()
        assert calls.error_of(call, at) == error
        assert calls.shared_regions() == before
        assert calls.peek(at + GRANULE) == 3


def test_userfaultfd_is_refused(fd: int) -> None:
    import ctypes
    import fcntl
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    uffd = libc.syscall(323, os.O_CLOEXEC)  # userfaultfd
    assert uffd >= 0
    try:
        fcntl.ioctl(uffd, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))  # UFFDIO_API
        with calls.mapped(GRANULE, RW, SHARED_PT, fd) as at:
            for mode in (1, 2):  # missing, write protect
                request = bytearray(struct.pack("QQQQ", at, GRANULE, mode, 0))
                assert calls.error_of(fcntl.ioctl, uffd, 0xC020AA00, request) == "EINVAL"  # UFFDIO_REGISTER
    finally:
        os.close(uffd)
