# SPDX-License-Identifier: MIT
"""Pages as the kernel sees them, frame by frame, and ways to have it take them away or move them."""

import ctypes
import errno
import os
import signal
import struct
import subprocess
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import calls
from agents import Agent, Agents
from calls import GRANULE, PAGE
from frames import frames
from settings import write

from ptshare import counters
from ptshare.syscalls import checked, libc

MADV_DONTNEED, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ = 4, 20, 21, 22


def present(found: Iterable[int | None]) -> list[int]:
    """The page frames among what the page tables have."""
    return [frame for frame in found if frame is not None]


#: Flags of /proc/kpageflags.
DIRTY, WRITEBACK = 1 << 4, 1 << 8

_MOVE_PAGES = 279  # x86-64


def flagged(found: Iterable[int | None], flag: int) -> int:
    """How many of these page frames have a flag in /proc/kpageflags."""
    with open("/proc/kpageflags", "rb", buffering=0) as file:
        words = [struct.unpack("Q", os.pread(file.fileno(), 8, frame * 8))[0] for frame in present(found)]
    return sum(bool(word & flag) for word in words)


_IDLE = Path("/sys/kernel/mm/page_idle/bitmap")


def set_idle(page_frames: Sequence[int]) -> None:
    """Mark pages as not accessed; their accessed bits are cleared by way of rmap."""
    words: dict[int, int] = {}
    for frame in page_frames:
        words[frame // 64] = words.get(frame // 64, 0) | 1 << frame % 64
    with _IDLE.open("r+b", buffering=0) as file:
        for word, bits in words.items():
            os.pwrite(file.fileno(), struct.pack("Q", bits), word * 8)


def idle(page_frames: Sequence[int]) -> list[bool]:
    """Which pages were not accessed since :func:`set_idle`, as rmap finds it."""
    words: dict[int, int] = {}
    with _IDLE.open("rb", buffering=0) as file:
        for word in {frame // 64 for frame in page_frames}:
            words[word] = struct.unpack("Q", os.pread(file.fileno(), 8, word * 8))[0]
    return [bool(words[frame // 64] >> frame % 64 & 1) for frame in page_frames]


def events() -> dict[str, int]:
    """/proc/vmstat."""
    return {name: int(value) for name, value in map(str.split, Path("/proc/vmstat").read_text().splitlines())}


def drain() -> None:
    """Have every page on an LRU list. Reclaim passes over those last made by each CPU, which wait for that.

    move_pages(2) has all CPUs put them there before it looks for its page.
    """
    buffer = ctypes.create_string_buffer(1)
    page, node, status = ctypes.c_void_p(ctypes.addressof(buffer)), ctypes.c_int(0), ctypes.c_int()
    checked(libc.syscall(_MOVE_PAGES, 0, 1, ctypes.byref(page), ctypes.byref(node), ctypes.byref(status), 2))


def _first_words(addr: int, length: int) -> memoryview:
    """The first 8 bytes of each page, as numbers."""
    return memoryview((ctypes.c_char * length).from_address(addr)).cast("B").cast("Q")[:: PAGE // 8]


def _stamps(pages: int, version: int) -> "array[int]":
    return array("Q", (page << 32 | version for page in range(pages)))


class Pager(Agent):
    """An agent that knows whether each page is its own."""

    def stamp(self, addr: int, length: int, version: int) -> None:
        """Store its number and a version into each page."""
        _first_words(addr, length)[:] = memoryview(_stamps(length // PAGE, version))

    def wrong(self, addr: int, length: int, version: int) -> list[int] | None:
        """The first page that does not have its stamp, and what it has."""
        found = array("Q", _first_words(addr, length).tolist())
        pairs = zip(found, _stamps(length // PAGE, version), strict=True)
        return next(([page, pair[0]] for page, pair in enumerate(pairs) if pair[0] != pair[1]), None)

    def store_faults(self, addr: int, length: int, value: int) -> int:
        """Minor faults of a store to every page; some more are the interpreter's own."""
        before = counters.minor_faults()
        calls.store(addr, length, value)
        return counters.minor_faults() - before

    def mincore(self, addr: int, length: int) -> str:
        """mincore(2), a digit for each page."""
        return "".join(str(byte & 1) for byte in calls.mincore(addr, length))

    def set_user(self, uid: int) -> None:
        os.setresuid(uid, uid, uid)


class Pagers(Agents):
    """Processes with a guest of one file each, at different addresses."""

    def __init__(self, count: int) -> None:
        super(Agents, self).__init__(count, Pager)

    def ask(self, member: int, method: str, *arguments: Any) -> Any:
        """Call one of the methods of :class:`Pager`."""
        return self.call(method, *arguments, members=[member])[0]

    def map(self, fd: int, length: int, prot: int = calls.RW, flags: int = calls.SHARED_PT) -> list[int]:
        """Map the file in each, at an address of its own; the addresses."""
        area = calls.free_area(length + len(self.members) * GRANULE)
        return [
            int(self.do(n, "mmap", length, prot, flags | calls.MAP_FIXED, fd, 0, area + n * GRANULE))
            for n in self.members
        ]

    def frames(self, at: Sequence[int], length: int) -> list[int | None]:
        """The page frames behind a mapping of each; they must be the same in all."""
        # First all who have to run for it: they may be short of memory, and reclaim some.
        pids = [self.pid(n) for n in self.members]
        # Pages may still go while this looks: it compares what was the same from the first look to the last.
        deadline = time.monotonic() + 60
        while True:
            each = [frames(pid, at[n], length) for n, pid in zip(self.members, pids, strict=True)]
            if frames(pids[0], at[self.members[0]], length) == each[0] or time.monotonic() > deadline:
                break
        assert each == [each[0]] * len(each)
        return each[0]


class Tally:
    """Processes that count up in the first pages of a file: tally.c.

    :param busy: how many of them do nothing else, so that their CPUs forget nothing; the others pause between
        rounds, and run with what their CPUs remember from before
    """

    def __init__(self, program: Path, fd: int, pages: int, count: int, busy: int = 1) -> None:
        self.pages = pages
        arguments = [str(program), str(fd), str(pages)]
        self._children = [
            subprocess.Popen(
                [*arguments, str(slot), "0" if slot < busy else "5000"],
                pass_fds=[fd],
                stdout=subprocess.PIPE,
            )
            for slot in range(count)
        ]
        # Before it is ready, SIGTERM would end one without a word.
        for child in self._children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [child.pid for child in self._children]

    def check(self) -> None:
        """
        :raises AssertionError: one of them found something else in a page than it had stored there last
        """
        for child in self._children:
            if child.poll():
                assert child.stdout is not None
                said = child.stdout.read().decode()
                raise AssertionError(said or f"it ended by itself, with {child.returncode}")

    def end(self) -> list[int]:
        """Have them end; how far each of them counted, by its own account."""
        for child in self._children:
            child.send_signal(signal.SIGTERM)
        for child in self._children:
            child.wait(60)
        self.check()
        return [int(child.stdout.read()) for child in self._children if child.stdout is not None]


def tallied(data: bytes, slot: int) -> set[int]:
    """The counts that pages have in a slot: one for all, unless a store was lost."""
    words = memoryview(data).cast("Q")[slot :: PAGE // 8].tolist()
    return {word - (page * (PAGE // 8) + slot << 32) for page, word in enumerate(words)}


class Group:
    """A memory cgroup."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, pid: int) -> None:
        """What the process makes from now on is charged here."""
        write(self.path / "cgroup.procs", str(pid))

    def limit(self, size: int) -> None:
        """memory.max"""
        write(self.path / "memory.max", str(size))

    def reclaim(self, size: int) -> bool:
        """memory.reclaim, of what goes to swap; ``False``: not as much could be."""
        try:
            write(self.path / "memory.reclaim", f"{size} swappiness=200")
        except BlockingIOError:
            return False
        return True


@contextmanager
def group() -> Iterator[Group]:
    """A memory cgroup for a while. The processes in it have to end first."""
    path = Path("/sys/fs/cgroup/ptshare-paging")
    path.mkdir()
    try:
        yield Group(path)
    finally:
        path.rmdir()


class _Block:
    """A block of memory that can be taken away and given back: /sys/devices/system/memory."""

    def __init__(self, path: Path) -> None:
        self._state = path / "state"

    def set(self, state: str) -> bool:
        """``False``: it has pages that cannot be moved."""
        try:
            write(self._state, state)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True


class Movable:
    """All memory for pages that can be moved; users' pages are taken from it first."""

    def __init__(self, full: _Block, empty: _Block) -> None:
        self._full, self._empty = full, empty

    def move(self) -> None:
        """Migrate every page in it to other frames."""
        assert self._empty.set("online_movable")
        assert self._full.set("offline")
        self._full, self._empty = self._empty, self._full

    def collect_free(self) -> None:
        """Take back the free frames that each CPU keeps for itself, as taking a block away does."""
        assert self._empty.set("online_movable")
        assert self._empty.set("offline")

    def end(self) -> None:
        """Make it ordinary memory again."""
        self._full.set("offline")
        for block in (self._full, self._empty):
            block.set("online_kernel")


@contextmanager
def movable() -> Iterator[Movable]:
    """Two blocks of memory as a zone of movable pages, one of them in use at a time. All that is in it can be
    migrated at once, for which it takes a second node elsewhere.
    """
    blocks = Path("/sys/devices/system/memory")
    numbers = sorted((int(path.name[len("memory") :]) for path in blocks.glob("memory[0-9]*")), reverse=True)
    taken: list[_Block] = []
    # The last ones have the kernel's own in them, and the first.
    for number in numbers[2:]:
        block = _Block(blocks / f"memory{number}")
        if block.set("offline"):
            taken.append(block)
        if len(taken) == 2:
            break
    assert taken[0].set("online_movable")
    zone = Movable(*taken)
    try:
        yield zone
    finally:
        zone.end()


def drop_caches() -> None:
    """Have the kernel drop the clean page cache that nobody uses."""
    write(Path("/proc/sys/vm/drop_caches"), "1")
