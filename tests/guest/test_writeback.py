# SPDX-License-Identifier: MIT
"""Writeback through shared tables: what any process stores is found dirty, and reaches the disk."""

import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import calls
import pytest
from calls import GRANULE, MAP_SHARED, PAGE, RW, SHARED_PT
from files import opened
from paging import (
    DIRTY,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    Pagers,
    Tally,
    drop_caches,
    events,
    flagged,
    tallied,
)
from settings import setting

from held import settles
from ptshare.syscalls import checked, libc, size_t

PAGES = GRANULE // PAGE
MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4

_FS_IOC_FIEMAP = 0xC020660B
_EXTENTS = 64


class Disk:
    """Where the blocks of a file stand in the image that its file system is mounted from."""

    def __init__(self, directory: Path, fd: int) -> None:
        os.fsync(fd)
        self._directory, self._image = directory, directory.with_name("image")
        self._size = os.fstat(fd).st_size
        request = bytearray(struct.pack("QQIIII", 0, self._size, 0, 0, _EXTENTS, 0) + bytes(56 * _EXTENTS))
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
        count = struct.unpack_from("I", request, 20)[0]
        assert 0 < count < _EXTENTS
        self._extents = [struct.unpack_from("QQQ", request, 32 + 56 * n) for n in range(count)]

    def read(self) -> bytes:
        """The file's blocks on the disk, whatever the page cache has."""
        data = bytearray(self._size)
        with opened(self._image, os.O_RDONLY) as image:
            for logical, physical, length in self._extents:
                data[logical : logical + length] = os.pread(image, length, physical)
        assert len(data) == self._size
        return bytes(data)

    def mount_again(self) -> None:
        """Unmount it, which fails if anything has the file system in use, and mount it again."""
        subprocess.run(["umount", str(self._directory)], check=True)
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self._directory)], check=True)


@contextmanager
def on_disk(directory: Path) -> Iterator[tuple[int, Disk]]:
    """A file of one granule that is clean, and its blocks."""
    path = directory / "file"
    path.write_bytes(bytes(GRANULE))
    with opened(path) as fd:
        yield fd, Disk(directory, fd)


def values(data: bytes) -> set[int]:
    """What the pages begin with."""
    return set(data[::PAGE])


def test_each_processs_stores_are_found_after_a_sync(ext4: Path) -> None:
    """A sync cleans and write-protects the pages for all; one fault a page makes it dirty for all."""
    with on_disk(ext4) as (fd, disk), Pagers(3) as pagers:
        at = pagers.map(fd, GRANULE)
        for n in range(3):
            pagers.do(n, "touch", at[n], GRANULE)
        found = pagers.frames(at, GRANULE)
        assert flagged(found, DIRTY) == 0
        for value, first, second in ((1, 0, 1), (2, 1, 2), (3, 2, 0), (4, 0, 1)):
            assert PAGES <= pagers.ask(first, "store_faults", at[first], GRANULE, 100) < PAGES + 100
            assert flagged(found, DIRTY) == PAGES
            assert pagers.ask(second, "store_faults", at[second], GRANULE, value) < 100
            os.fsync(fd)
            assert flagged(found, DIRTY) == 0
            assert values(disk.read()) == {value}
            assert pagers.frames(at, GRANULE) == found


def test_stores_survive_the_page_cache(ext4: Path) -> None:
    """Read by read(2) after the caches were dropped, and from the image mounted again."""
    with on_disk(ext4) as (fd, disk):
        with Pagers(2) as pagers:
            at = pagers.map(fd, GRANULE)
            for n in range(2):
                pagers.do(n, "touch", at[n], GRANULE)
            pagers.do(0, "store", at[0], GRANULE, 1)
            os.fsync(fd)
            pagers.do(1, "store", at[1], GRANULE, 2)
            os.fsync(fd)
            pagers.do(0, "store", at[0], GRANULE // 2, 3)
        os.fsync(fd)
        drop_caches()
        with calls.mapped(GRANULE, calls.R, MAP_SHARED, fd) as look:
            assert not any(calls.mincore(look, GRANULE))
        expected = bytes([3]) * (PAGES // 2) + bytes([2]) * (PAGES // 2)
        assert os.pread(fd, GRANULE, 0)[::PAGE] == expected
    disk.mount_again()
    assert (ext4 / "file").read_bytes()[::PAGE] == expected


def test_stores_without_a_sync_survive_too(ext4: Path) -> None:
    """Nothing asks for writing, but unmounting does."""
    with on_disk(ext4) as (fd, disk), Pagers(2) as pagers:
        at = pagers.map(fd, GRANULE)
        pagers.do(0, "store", at[0], GRANULE, 1)
        os.fsync(fd)
        pagers.do(1, "store", at[1], GRANULE, 2)
        pagers.kill([1])
    disk.mount_again()
    assert values((ext4 / "file").read_bytes()) == {2}


@pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "shared"])
def test_msync(ext4: Path, flags: int) -> None:
    """By one process, of what another one stored; the same for a guest and an ordinary mapping."""

    def msync(at: int, length: int, how: int) -> None:
        checked(libc.msync(size_t(at), size_t(length), how))

    with on_disk(ext4) as (fd, disk), Pagers(1) as pagers, calls.mapped(GRANULE, RW, flags, fd) as at:
        other = pagers.map(fd, GRANULE, flags=flags)
        calls.touch(at, GRANULE)
        pagers.do(0, "store", other[0], GRANULE, 1)
        found = pagers.frames(other, GRANULE)
        # Nothing but a promise.
        msync(at, GRANULE, MS_ASYNC)
        assert flagged(found, DIRTY) == PAGES
        # The range alone, and then all.
        msync(at, GRANULE // 2, MS_SYNC)
        assert (flagged(found[: PAGES // 2], DIRTY), flagged(found[PAGES // 2 :], DIRTY)) == (0, PAGES // 2)
        msync(at, GRANULE, MS_SYNC | MS_INVALIDATE)
        assert flagged(found, DIRTY) == 0
        assert values(disk.read()) == {1}
        pagers.do(0, "store", other[0], GRANULE, 2)
        msync(at, GRANULE, MS_INVALIDATE)
        assert calls.peek(at) == 2
        msync(at, GRANULE, MS_SYNC)
        assert values(disk.read()) == {2}
        assert calls.error_of(msync, at, GRANULE, MS_SYNC | MS_ASYNC) == "EINVAL"
        assert calls.error_of(msync, at + 1, PAGE, MS_SYNC) == "EINVAL"
        calls.munmap(at, GRANULE)
        assert calls.error_of(msync, at, GRANULE, MS_SYNC) == "ENOMEM"


def test_the_first_store_after_a_sync_changes_the_files_time(ext4: Path) -> None:
    """Whichever process stores, also when the one is gone whose open file the host had."""
    with on_disk(ext4) as (fd, _), Pagers(3) as pagers:
        at = pagers.map(fd, GRANULE)
        pagers.do(0, "touch", at[0], GRANULE)
        for n in (0, 1, 2):
            os.utime(fd, ns=(0, 0))
            os.fsync(fd)
            pagers.do(n, "poke", at[n], 1)
            assert os.fstat(fd).st_mtime_ns > 0
            pagers.do(n, "munmap", at[n], GRANULE)


#: Processes that store meanwhile, and to how many pages. They are so few that each has a CPU: one that forgot
#: its translations in between would make a page dirty again for all.
WRITERS, TALLIED = 2, 48


def nothing_lost(writers: Tally, fd: int, disk: Disk) -> None:
    """What each process stored last is on the disk, when all was synced, and is read from there."""
    counts = [{count} for count in writers.end()]
    os.fsync(fd)
    data = disk.read()[: TALLIED * PAGE]
    assert [tallied(data, slot) for slot in range(WRITERS)] == counts


def words(data: bytes) -> list[int]:
    """What each page has in each writer's slot. They count up."""
    view = memoryview(data).cast("Q")
    return [word for slot in range(WRITERS) for word in view[slot :: PAGE // 8].tolist()]


def test_stores_race_with_writeback(ext4: Path, tally: Path) -> None:
    """What was in the file before sync_file_range(2) is on the disk after it, while the kernel writes what is
    older than 10 ms by itself, and processes store.
    """
    write_and_wait, length = 7, TALLIED * PAGE
    vm = Path("/proc/sys/vm")
    with (
        on_disk(ext4) as (fd, disk),
        setting(vm / "dirty_writeback_centisecs", "1"),
        setting(vm / "dirty_expire_centisecs", "1"),
        Tally(tally, fd, TALLIED, WRITERS, busy=WRITERS) as writers,
    ):
        before = events()
        while events()["nr_written"] - before["nr_written"] < 8 * TALLIED:
            stored = words(os.pread(fd, length, 0))
            checked(libc.sync_file_range(fd, size_t(0), size_t(0), write_and_wait))
            written = words(disk.read()[:length])
            assert all(new >= old for new, old in zip(written, stored, strict=True))
            writers.check()
        nothing_lost(writers, fd, disk)
    disk.mount_again()
    data = (ext4 / "file").read_bytes()[:length]
    assert all(len(tallied(data, slot)) == 1 for slot in range(WRITERS))


def test_stores_race_with_reclaim_of_clean_pages(ext4: Path, tally: Path) -> None:
    """Pages are taken away as soon as they are clean, and read from the disk again."""
    with (
        on_disk(ext4) as (fd, disk),
        calls.mapped(GRANULE, RW, SHARED_PT, fd) as at,
        Tally(tally, fd, TALLIED, WRITERS, busy=WRITERS) as writers,
    ):
        before = events()
        while events()["workingset_refault_file"] - before["workingset_refault_file"] < 2 * TALLIED:
            calls.touch(at, PAGE)
            os.fdatasync(fd)
            calls.madvise(at, TALLIED * PAGE, MADV_PAGEOUT)
            writers.check()
        nothing_lost(writers, fd, disk)


def fill(fd: int) -> None:
    """Write until there is no room."""
    for size in (1 << 20, 1 << 10):
        with suppress(OSError):
            while True:
                os.write(fd, bytes(size))
    os.fsync(fd)


def test_a_full_disk_hits_the_process_that_stores(ext4: Path) -> None:
    """A hole of the file cannot be filled: the store fails, and others go on; with room it can."""
    with opened(ext4 / "hole", os.O_RDWR | os.O_CREAT) as fd, Pagers(3) as pagers:
        os.ftruncate(fd, GRANULE)
        at = pagers.map(fd, GRANULE)
        pagers.do(0, "poke", at[0], 1)
        os.fsync(fd)
        with opened(ext4 / "full", os.O_RDWR | os.O_CREAT) as full:
            fill(full)
            for n in range(3):
                assert not pagers.do(n, "poke", at[n] + 100 * PAGE, 2)
                assert pagers.do(n, "peek", at[n] + 100 * PAGE) == 0
                assert pagers.do(n, "poke", at[n], n + 1)
            os.ftruncate(full, 0)
            os.fsync(full)
        assert pagers.do(1, "poke", at[1] + 100 * PAGE, 2)
        assert pagers.do(2, "peek", at[2] + 100 * PAGE) == 2
        os.fsync(fd)


def waits(pid: int) -> bool:
    """In the kernel, uninterruptibly."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "D"


def forked(act: Callable[[], object]) -> int:
    """A process that does this, and waits for a frozen file system meanwhile."""
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(0)
    assert settles(lambda: waits(pid), True, 20)
    return pid


def ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def test_who_waits_behind_a_frozen_file_system_can_be_killed(ext4: Path) -> None:
    """A store waits for the thaw, a change of protection for the store; for the change a load of a page that
    the tables do not have, and get_user_pages() of one that they have.
    """
    with on_disk(ext4) as (fd, _), calls.mapped(GRANULE, RW, SHARED_PT, fd) as at:
        # The page is there, but not in the tables.
        os.pread(fd, GRANULE, 0)
        calls.touch(at, PAGE)
        pids = []
        subprocess.run(["fsfreeze", "--freeze", str(ext4)], check=True)
        try:
            pids.append(forked(lambda: calls.store(at, PAGE)))
            pids.append(forked(lambda: calls.mprotect(at + GRANULE - PAGE, PAGE, calls.R)))
            pids.append(forked(lambda: calls.touch(at + GRANULE // 2, PAGE)))
            pids.append(forked(lambda: calls.madvise(at, PAGE, MADV_POPULATE_READ)))
            for _ in range(2):
                killed = pids.pop()
                os.kill(killed, signal.SIGKILL)
                assert settles(partial(ended, killed), True, 20)
            assert [waits(pid) for pid in pids] == [True, True]
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(ext4)], check=True)
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert codes == [0, 0]


def test_a_frozen_file_system_holds_up_stores_alone(ext4: Path) -> None:
    """A store that waits for the thaw keeps nobody from reading, from coming, and from going."""
    with on_disk(ext4) as (fd, disk), Pagers(3) as pagers, Pagers(1) as late:
        at = pagers.map(fd, GRANULE)
        pagers.do(0, "touch", at[0], PAGE)
        subprocess.run(["fsfreeze", "--freeze", str(ext4)], check=True)
        try:
            writer = os.fork()
            if writer == 0:
                with calls.mapped(GRANULE, RW, SHARED_PT, fd) as here:
                    calls.store(here, PAGE, 1)
                os._exit(0)
            assert settles(lambda: waits(writer), True, 20)
            pagers.do(1, "touch", at[1], GRANULE)
            assert pagers.faults(2, at[2], GRANULE) <= 1
            late_at = late.map(fd, GRANULE)
            late.do(0, "touch", late_at[0], GRANULE)
            late.do(0, "munmap", late_at[0], GRANULE)
            pagers.kill([2])
            assert values(disk.read()) == {0}
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(ext4)], check=True)
        assert os.waitpid(writer, 0)[1] == 0
        os.fsync(fd)
        assert disk.read()[0] == 1
