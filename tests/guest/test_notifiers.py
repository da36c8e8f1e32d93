# SPDX-License-Identifier: MIT
"""mmu notifiers of a guest's own hear of what happens to the host's tables.

The kernel's lib/test_hmm.c is a device with page tables of its own that mirror a process, as KVM's and a
graphics card's do. It looks a page up once, and then uses what it found until a notifier takes it away.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import calls
import pytest
from agents import Agents
from calls import GRANULE, NONE, PAGE, RW, SHARED_PT, R
from files import fallocate
from paging import drain

_MIRROR = "/dev/hmm_dmirror0"
#: _IOWR('H', n, struct of five u64): addr, ptr, npages; out: cpages, faults
_READ, _WRITE, _MIGRATE_TO_DEVICE = (0xC0284800 | n for n in (0, 1, 2))
_PUNCH_HOLE = 0x3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_MADV_PAGEOUT = 21


class Mirror:
    """The device, which mirrors the process that opens it."""

    def __init__(self) -> None:
        self.fd = os.open(_MIRROR, os.O_RDWR)
        self._page = mmap.mmap(-1, PAGE)
        self._addr = ctypes.addressof(ctypes.c_char.from_buffer(self._page))

    def close(self) -> None:
        os.close(self.fd)

    def _command(self, command: int, addr: int) -> int:
        """Do it; how often the device had to ask the process's page tables."""
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = fcntl.ioctl(self.fd, command, struct.pack("5Q", addr, self._addr, 1, 0, 0))
                return int(struct.unpack("5Q", answer)[4])
            except OSError as error:
                # It gives up where the mappings have changed again and again for a second.
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise

    def read(self, addr: int) -> tuple[int, int]:
        """The first byte of a page as the device sees it, and the device's page faults."""
        faults = self._command(_READ, addr)
        return self._page[0], faults

    def write(self, addr: int, value: int) -> int:
        self._page[0] = value
        return self._command(_WRITE, addr)

    def migrate(self, addr: int) -> None:
        """Move the page to the device's own memory."""
        self._command(_MIGRATE_TO_DEVICE, addr)


@contextmanager
def mirror() -> Iterator[Mirror]:
    device = Mirror()
    try:
        yield device
    finally:
        device.close()


class Other:
    """What another process does to the file's pages, by its own guest or without one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def punch(self) -> None:
        fallocate(self.fd, _PUNCH_HOLE, 0, GRANULE)

    def truncate(self) -> None:
        os.ftruncate(self.fd, 0)
        os.ftruncate(self.fd, 2 * GRANULE)


@pytest.mark.parametrize("late", [False, True], ids=["device-last", "device-first"])
@pytest.mark.parametrize("how", ["punch", "truncate", "mprotect"])
def test_the_device_hears(how: str, late: bool) -> None:
    """Whether the process was a guest before it had notifiers, or has become one since."""
    with calls.memfd(2 * GRANULE) as fd, Agents(1) as agents:
        there = agents.do(0, "mmap", 2 * GRANULE, RW, SHARED_PT, fd)
        agents.do(0, "store", there, 2 * GRANULE, 7)
        if late:
            with mirror() as device, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
                _check(device, at, agents, there, how, fd)
        else:
            with calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at, mirror() as device:
                _check(device, at, agents, there, how, fd)


def _check(device: Mirror, at: int, agents: Agents, there: int, how: str, fd: int) -> None:
    assert device.read(at + PAGE) == (7, 1)
    assert device.read(at + GRANULE + PAGE) == (7, 1)
    # Known from now on.
    assert device.read(at + PAGE) == (7, 0)
    if how == "punch":
        Other(fd).punch()
        assert device.read(at + PAGE) == (0, 1)
        # What was not taken away is still known. (The device takes one page too many from itself.)
        assert device.read(at + GRANULE + PAGE) == (7, 0)
    elif how == "truncate":
        Other(fd).truncate()
        assert device.read(at + PAGE) == (0, 1)
        assert device.read(at + GRANULE + PAGE) == (0, 1)
    else:
        assert device.write(at + PAGE, 9) == 0
        agents.do(0, "mprotect", there, GRANULE, R)
        with pytest.raises(OSError, match="Bad address"):
            device.write(at + PAGE, 10)
        assert device.read(at + PAGE) == (9, 1)
        agents.do(0, "mprotect", there, GRANULE, NONE)
        with pytest.raises(OSError, match="Bad address"):
            device.read(at + PAGE)
        agents.do(0, "mprotect", there, GRANULE, RW)
        assert device.write(at + PAGE, 11) == 1
        assert device.write(at + PAGE, 11) == 0
    assert agents.do(0, "peek", there + PAGE) == device.read(at + PAGE)[0]


def test_each_window_hears_of_its_own(ext4: Path) -> None:
    """Two windows at different offsets, one of them split and moved; reclaim takes a page from under both."""
    path = ext4 / "file"
    path.write_bytes(b"\7" * (4 * GRANULE))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    try:
        with (
            Agents(1) as agents,
            calls.mapped(3 * GRANULE, RW, SHARED_PT, fd, GRANULE) as first,
            mirror() as device,
            calls.mapped(2 * GRANULE, RW, SHARED_PT, fd, 2 * GRANULE) as second,
        ):
            calls.munmap(first, GRANULE)  # shrinks from below: offset 2 granules on
            moved = calls.free_area(GRANULE)
            calls.mremap(second, GRANULE, GRANULE, calls.MREMAP_MAYMOVE | calls.MREMAP_FIXED, moved)
            windows = [first + GRANULE, moved]
            there = agents.do(0, "mmap", 4 * GRANULE, RW, SHARED_PT, fd)
            for window in windows:
                assert device.read(window) == (7, 1)
                assert device.read(window) == (7, 0)
            agents.do(0, "touch", there + 2 * GRANULE, PAGE)
            drain()
            for _ in range(2):
                agents.do(0, "madvise", there + 2 * GRANULE, PAGE, _MADV_PAGEOUT)
            assert not calls.present(windows[0])
            for window in windows:
                assert device.read(window) == (7, 1)
            calls.munmap(moved, GRANULE)
            fallocate(fd, _PUNCH_HOLE, 2 * GRANULE, GRANULE)
            assert device.read(windows[0]) == (0, 1)
    finally:
        os.close(fd)


def test_shared_pages_do_not_move_to_a_device() -> None:
    """It would change the entries of all for one. As if there were no page that can move."""
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as at, mirror() as device:
        calls.store(at, GRANULE, 5)
        with pytest.raises(OSError, match="Invalid argument"):
            device.migrate(at)
        assert device.read(at) == (5, 1)


def test_devices_come_and_go_while_pages_do() -> None:
    """Two threads of a process open and close devices, map and unmap, while another punches holes."""
    with (
        calls.memfd(4 * GRANULE) as fd,
        Agents(1) as agents,
        calls.mapped(4 * GRANULE, RW, SHARED_PT, fd) as at,
    ):
        there = agents.do(0, "mmap", 4 * GRANULE, RW, SHARED_PT, fd)
        stop = threading.Event()
        failures: list[BaseException] = []

        def comes_and_goes() -> None:
            try:
                while not stop.is_set():
                    with mirror() as device:
                        window = calls.mmap(2 * GRANULE, RW, SHARED_PT, fd, GRANULE)
                        device.read(window)
                        calls.munmap(window, GRANULE)
                        device.read(window + GRANULE)
                        calls.munmap(window + GRANULE, GRANULE)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=comes_and_goes) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            with mirror() as device:
                for value in range(1, 60):
                    agents.do(0, "store", there + GRANULE, PAGE, value)
                    assert device.read(at + GRANULE)[0] == value
                    fallocate(fd, _PUNCH_HOLE, GRANULE, GRANULE)
                    assert device.read(at + GRANULE)[0] == 0
                    agents.do(0, "mprotect", there, 4 * GRANULE, R)
                    agents.do(0, "mprotect", there, 4 * GRANULE, RW)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
