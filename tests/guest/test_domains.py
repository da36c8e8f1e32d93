# SPDX-License-Identifier: MIT
"""Who shares with whom, and what a domain holds on to while it lives."""

import fcntl
import os
import subprocess
from pathlib import Path

import calls
import pytest
from agents import Agents
from calls import GRANULE, PAGE, RW, SHARED_PT, R, X

from held import sharing
from ptshare import counters
from ptshare.counters import SharingCounters

SIZE = 4 * GRANULE


def filled(path: Path, granules: int = 4) -> Path:
    path.write_bytes(os.urandom(granules * GRANULE))
    return path


def shares(first: int, second: int) -> bool:
    """Do two mappings of one file, not touched so far, use the same tables?

    Page 300 is touched through one, page 0 of the same granule through the other. Fault-around (64 KiB) does
    not reach from one to the other.
    """
    calls.peek(first + 300 * PAGE)
    calls.peek(second)
    return calls.present(second + 300 * PAGE)


def test_unrelated_processes_share(directory: Path, idle: SharingCounters) -> None:
    path = filled(directory / "file")
    with Agents(3) as agents:
        fds = agents.call("open", str(path), os.O_RDWR)
        at = [agents.do(n, "mmap", SIZE, RW, SHARED_PT, fds[n]) for n in range(3)]
        assert sharing().domains == idle.domains + 1
        agents.do(0, "touch", at[0], SIZE)
        for n in (1, 2):
            # One fault for each granule, whatever it holds.
            assert agents.faults(n, at[n], SIZE) <= 4
        # A page that comes later is seen by those that have linked already.
        assert agents.faults(2, at[2], SIZE) == 0


def test_by_whatever_way_the_file_was_reached(directory: Path, tmp_path: Path, idle: SharingCounters) -> None:
    path = filled(directory / "file")
    link = directory / "link"
    os.link(path, link)
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", str(directory), str(other)], check=True)
    fds = []
    try:
        first = os.open(path, os.O_RDWR)
        fds = [first] + [
            os.open(way, os.O_RDWR) for way in (path, link, other / "file", f"/proc/self/fd/{first}")
        ]
        for fd in fds[1:]:
            with (
                calls.mapped(SIZE, RW, SHARED_PT, fds[0]) as one,
                calls.mapped(SIZE, RW, SHARED_PT, fd) as two,
            ):
                assert sharing().domains == idle.domains + 1
                assert shares(one, two)
    finally:
        for fd in fds:
            os.close(fd)
        subprocess.run(["umount", str(other)], check=True)


def test_overlapping_windows(directory: Path) -> None:
    """The tables of the overlap exist once, whatever the addresses."""
    fd = os.open(filled(directory / "file", 8), os.O_RDWR)
    try:
        with (
            calls.mapped(6 * GRANULE, RW, SHARED_PT, fd) as low,
            calls.mapped(6 * GRANULE, RW, SHARED_PT, fd, 2 * GRANULE) as high,
        ):
            calls.touch(low, 6 * GRANULE)
            tables = sharing().tables
            assert calls.faults(high, 4 * GRANULE) <= 4
            assert sharing().tables == tables
            calls.touch(high, 6 * GRANULE)
            assert sharing().tables == tables + 2
    finally:
        os.close(fd)


def test_two_mappings_in_one_process(idle: SharingCounters) -> None:
    with (
        calls.memfd(SIZE) as fd,
        calls.mapped(SIZE, RW, SHARED_PT, fd) as one,
        calls.mapped(SIZE, RW, SHARED_PT, fd) as two,
    ):
        assert shares(one, two)
        assert (sharing().domains, sharing().guests) == (idle.domains + 1, idle.guests + 2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((os.O_RDWR, RW), (os.O_RDONLY, R)),
        ((os.O_RDWR, R), (os.O_RDONLY, R)),
        ((os.O_RDWR, RW), (os.O_RDWR, R)),
        ((os.O_RDONLY, R), (os.O_RDONLY, R | X)),
    ],
)
def test_another_class_has_other_tables(
    tmpfs: Path, idle: SharingCounters, first: tuple[int, int], second: tuple[int, int]
) -> None:
    path = filled(tmpfs / "file")
    one, two = os.open(path, first[0]), os.open(path, second[0])
    try:
        with (
            calls.mapped(SIZE, first[1], SHARED_PT, one) as at,
            calls.mapped(SIZE, second[1], SHARED_PT, two) as other,
        ):
            assert sharing().domains == idle.domains + 2
            assert not shares(at, other)
    finally:
        os.close(one)
        os.close(two)


def test_noexec_is_a_class_of_its_own(tmpfs: Path, tmp_path: Path, idle: SharingCounters) -> None:
    path = filled(tmpfs / "file")
    other = tmp_path / "noexec"
    other.mkdir()
    subprocess.run(["mount", "--bind", str(tmpfs), str(other)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,noexec", str(other)], check=True)
    one, two = os.open(path, os.O_RDWR), os.open(other / "file", os.O_RDWR)
    try:
        with calls.mapped(SIZE, RW, SHARED_PT, one) as at, calls.mapped(SIZE, RW, SHARED_PT, two) as guest:
            assert sharing().domains == idle.domains + 2
            assert not shares(at, guest)
            calls.mprotect(at, SIZE, R | X)
            assert calls.error_of(calls.mprotect, guest, SIZE, R | X) == "EACCES"
            assert calls.poke(guest, 1)
    finally:
        os.close(one)
        os.close(two)
        subprocess.run(["umount", str(other)], check=True)


def test_a_sealed_memfd_is_a_class_of_its_own(idle: SharingCounters) -> None:
    with calls.memfd(SIZE, os.MFD_ALLOW_SEALING) as fd:
        at = calls.mmap(SIZE, RW, SHARED_PT, fd)
        # The host's mapping keeps the seal off while it may write.
        assert calls.error_of(fcntl.fcntl, fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE) == "EBUSY"
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x10)  # F_SEAL_FUTURE_WRITE
        with calls.mapped(SIZE, R, SHARED_PT, fd) as sealed:
            assert sharing().domains == idle.domains + 2
            assert not shares(at, sealed)
            assert calls.error_of(calls.mprotect, sealed, SIZE, RW) == "EACCES"
            assert not calls.poke(sealed, 1)
            assert calls.poke(at, 1)
        calls.munmap(at, SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_the_file_system_can_be_unmounted(directory: Path) -> None:
    """By the fixture, once the last guest is gone; and not before."""
    path = filled(directory / "file")
    with Agents(2) as agents:
        fds = agents.call("open", str(path), os.O_RDWR)
        for n, fd in enumerate(fds):
            agents.do(n, "touch", agents.do(n, "mmap", SIZE, RW, SHARED_PT, fd), SIZE)
            os.kill(agents.pid(n), 0)
        assert subprocess.run(["umount", str(directory)], stderr=subprocess.DEVNULL).returncode != 0
        agents.kill([0])
        assert subprocess.run(["umount", str(directory)], stderr=subprocess.DEVNULL).returncode != 0
        agents.kill([1])


def test_a_mount_is_held_no_longer_than_by_its_own_guests(tmpfs: Path, tmp_path: Path) -> None:
    """The domain outlives the guest that founded it, the mount it came by need not."""
    path = filled(tmpfs / "file")
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", str(tmpfs), str(other)], check=True)
    with Agents(2) as agents:
        founder = agents.call("open", str(other / "file"), os.O_RDWR, members=[0])[0]
        heir = agents.call("open", str(path), os.O_RDWR, members=[1])[0]
        agents.do(0, "touch", agents.do(0, "mmap", SIZE, RW, SHARED_PT, founder), SIZE)
        at = agents.do(1, "mmap", SIZE, RW, SHARED_PT, heir)
        agents.kill([0])
        subprocess.run(["umount", str(other)], check=True)
        # The tables are the same still.
        assert agents.faults(1, at, SIZE) <= 4
        agents.do(1, "mprotect", at, PAGE, R)
        agents.do(1, "mprotect", at, PAGE, RW)
        agents.do(1, "store", at, SIZE)


def test_a_lock_on_the_open_file_ends_with_its_owner(tmpfs: Path) -> None:
    path = filled(tmpfs / "file")
    with Agents(2) as agents:
        fds = agents.call("open", str(path), os.O_RDWR)
        for n, fd in enumerate(fds):
            agents.do(n, "touch", agents.do(n, "mmap", SIZE, RW, SHARED_PT, fd), SIZE)
        agents.do(0, "flock", fds[0])
        assert agents.error(1, "flock", fds[1]) == "EAGAIN"
        agents.kill([0])
        assert agents.error(1, "flock", fds[1]) == ""


def test_nothing_is_left_after_200_rounds(idle: SharingCounters, ext4: Path) -> None:
    path = filled(ext4 / "file")
    fd = os.open(path, os.O_RDWR)

    def one_round(number: int) -> None:
        flags = SHARED_PT if number % 2 else SHARED_PT | calls.MAP_POPULATE
        with calls.mapped(SIZE, RW, flags, fd) as at:
            pid = os.fork()
            if pid == 0:
                calls.store(at, SIZE)
                os._exit(0)
            calls.touch(at, SIZE)
            calls.mprotect(at + GRANULE, PAGE, R)
            assert os.waitpid(pid, 0)[1] in (0, 11)

    try:
        one_round(0)
        counters.fold_per_cpu()
        before = counters.page_tables_kib()
        for number in range(200):
            one_round(number)
        counters.fold_per_cpu()
        # Tables of this process and of others come and go; what 200 rounds leak is 200 tables at least.
        assert counters.page_tables_kib() - before < 100 * PAGE // 1024
        assert sharing() == idle
    finally:
        os.close(fd)
