# SPDX-License-Identifier: MIT
"""Huge pages around guests: files whose pages become huge, or cease to be, under tables that stay.

A table that a huge page could take the place of is taken away from an ordinary mapping, and each test that
says so of guests looks at an ordinary mapping too, to see that it would have happened.
"""

import ctypes
import os
import random
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import calls
import files
import pytest
from agents import Agent, Agents
from calls import (
    GRANULE,
    MADV_COLLAPSE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE,
    RW,
    SHARED_PT,
    R,
)
from files import opened
from frames import frames, huge, kib
from pagebits import smaps
from paging import Tally, tallied

from held import sharing
from ptshare.counters import SharingCounters

GRANULES = 4
SIZE = GRANULES * GRANULE
PER_GRANULE = GRANULE // PAGE
WRITERS = 3

MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLD = 14, 15, 20
_PR_SET_THP_DISABLE = 41
_THP = Path("/sys/kernel/mm/transparent_hugepage")


class _Worker(Agent):
    def checksum(self, addr: int, length: int) -> int:
        """Of the bytes, as plain loads find them."""
        return zlib.crc32((ctypes.c_char * length).from_address(addr))

    def collapse(self, addr: int, length: int) -> str:
        """MADV_COLLAPSE, again where madvise(2) says that trying again might help: the error."""
        for _ in range(50):
            if (error := calls.error_of(calls.madvise, addr, length, MADV_COLLAPSE)) != "EAGAIN":
                break
        return error

    def refuse_huge_pages(self) -> None:
        """prctl(2)"""
        assert ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0


class _Workers(Agents):
    def __init__(self, count: int) -> None:
        super(Agents, self).__init__(count, _Worker)

    def checksums(self, at: list[int], length: int) -> list[int]:
        return [self.call("checksum", start, length, members=[n])[0] for n, start in enumerate(at)]

    def collapse(self, member: int, addr: int, length: int) -> str:
        return str(self.call("collapse", addr, length, members=[member])[0])

    def frames(self, member: int, addr: int, length: int) -> list[int | None]:
        return frames(self.pid(member), addr, length)

    def pmd_mapped(self, member: int, addr: int) -> int:
        """Bytes that the mapping at ``addr`` has mapped by huge pages."""
        return kib(self.pid(member), addr, "ShmemPmdMapped") * 1024


@pytest.fixture
def huge_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """Where write(2) makes huge pages. Faults of guests do not."""
    with files.mounted(tmp_path / "tmpfs", "tmpfs", "huge=always") as directory:
        yield directory


@contextmanager
def tuned(**settings: str) -> Iterator[None]:
    """Settings of transparent huge pages, as paths with ``__`` for ``/``, for a while."""
    paths = {_THP / name.replace("__", "/"): value for name, value in settings.items()}
    # The choice in force stands in brackets.
    before = {path: path.read_text().rpartition("[")[2].partition("]")[0].strip() for path in paths}
    try:
        for path, value in paths.items():
            path.write_text(value)
        yield
    finally:
        for path, value in before.items():
            path.write_text(value)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """khugepaged does not run: nothing is collapsed unless a test has it done."""
    with tuned(enabled="never"):
        yield


@pytest.fixture
def khugepaged(quiet: None) -> Iterator[None]:
    """It runs, and scans without a pause."""
    with tuned(
        enabled="madvise",
        khugepaged__scan_sleep_millisecs="0",
        khugepaged__alloc_sleep_millisecs="0",
        khugepaged__pages_to_scan=str(64 * PER_GRANULE),
    ):
        yield


def pattern(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def small_pages(path: Path, data: bytes) -> None:
    """Write a file whose pages are small, though its file system makes huge ones."""
    path.touch()
    with opened(path) as fd:
        os.ftruncate(fd, len(data))
        with calls.mapped(len(data), RW, SHARED_PT, fd) as at:
            calls.store(at, len(data))
            assert huge(frames(os.getpid(), at, len(data))) == {False}
        os.pwrite(fd, data, 0)


def consecutive(found: list[int | None]) -> bool:
    """Whether these are the frames of aligned huge pages, in order."""
    firsts = found[::PER_GRANULE]
    return all(
        first is not None
        and first % PER_GRANULE == 0
        and found[n * PER_GRANULE :][:PER_GRANULE] == list(range(first, first + PER_GRANULE))
        for n, first in enumerate(firsts)
    )


def test_huge_pages_are_mapped_page_by_page(huge_tmpfs: Path, idle: SharingCounters) -> None:
    """The pages of the file are huge, and PTEs of the shared tables map them."""
    data = pattern(SIZE)
    path = huge_tmpfs / "file"
    path.write_bytes(data)
    with opened(path) as fd, _Workers(3) as agents:
        at = [
            agents.do(n, "mmap", SIZE, RW, flags, fd)
            for n, flags in enumerate((SHARED_PT, SHARED_PT, MAP_SHARED))
        ]
        agents.do(0, "touch", at[0], SIZE)
        assert sharing().tables - idle.tables == GRANULES + 2
        assert agents.faults(1, at[1], SIZE) == calls.link_faults(at[1], SIZE)
        found = agents.frames(0, at[0], SIZE)
        assert consecutive(found)
        assert huge(found) == {True}
        assert agents.frames(1, at[1], SIZE) == found
        agents.do(2, "touch", at[2], SIZE)
        assert agents.frames(2, at[2], SIZE) == found
        assert [agents.pmd_mapped(n, at[n]) for n in range(3)] == [0, 0, SIZE]
        assert agents.checksums(at, SIZE) == [zlib.crc32(data)] * 3
        # A store through each, to the same page, under either kind of entry.
        for n in range(3):
            assert agents.do(n, "poke", at[n] + GRANULE + 77, n + 1)
            assert [agents.do(m, "peek", at[m] + GRANULE + 77) for m in range(3)] == [n + 1] * 3


def test_collapsed_by_another_mapping(huge_tmpfs: Path, idle: SharingCounters) -> None:
    """MADV_COLLAPSE takes the tables away from ordinary mappings, of any process, and from no host."""
    data = pattern(SIZE)
    path = huge_tmpfs / "file"
    small_pages(path, data)
    with opened(path) as fd, opened(path, os.O_RDONLY) as reader, _Workers(6) as agents:
        # Two guests that write, two that read, an ordinary mapping, and a process that has both.
        at = [agents.do(n, "mmap", SIZE, RW, SHARED_PT, fd) for n in (0, 1)]
        at += [agents.do(n, "mmap", SIZE, R, SHARED_PT, reader) for n in (2, 3)]
        at += [agents.do(n, "mmap", SIZE, RW, MAP_SHARED, fd) for n in (4, 5)]
        guest = agents.do(5, "mmap", SIZE, RW, SHARED_PT, fd)
        agents.do(5, "touch", guest, SIZE)
        for n in range(6):
            agents.do(n, "touch", at[n], SIZE)
        before = agents.frames(0, at[0], SIZE)
        assert huge(before) == {False}
        held, linked = sharing(), agents.call("shared_kib")
        assert held.domains == idle.domains + 2
        assert held.tables - idle.tables == 2 * (GRANULES + 2)
        own = [agents.own_pages(n) for n in range(6)]

        assert agents.collapse(5, at[5], SIZE) == ""
        # What would have happened to guests: tables of PTEs went away.
        assert [own[n] - agents.own_pages(n) for n in (4, 5)] == [GRANULES] * 2
        assert agents.pmd_mapped(5, at[5]) == SIZE
        # What did: the PTEs did.
        assert sharing() == held
        assert agents.call("shared_kib") == linked
        for n in range(4):
            assert agents.frames(n, at[n], SIZE) == [None] * (SIZE // PAGE)

        # Links that were made before still lead to the tables that faults fill.
        for brings, finds in ((0, 1), (2, 3)):
            for page in range(300, SIZE // PAGE, PER_GRANULE):
                agents.do(brings, "peek", at[brings] + page * PAGE)
                assert agents.frames(finds, at[finds] + page * PAGE, PAGE)[0] is not None
            agents.do(brings, "touch", at[brings], SIZE)
            assert agents.faults(finds, at[finds], SIZE) == 0
        found = agents.frames(0, at[0], SIZE)
        assert consecutive(found)
        assert huge(found) == {True}
        # A granule's frames go free when its huge page is there; the next one's may be made of them.
        for first in range(0, len(found), PER_GRANULE):
            granule = slice(first, first + PER_GRANULE)
            assert set(found[granule]).isdisjoint(before[granule])
        agents.do(4, "touch", at[4], SIZE)
        assert [agents.frames(n, at[n], SIZE) for n in range(1, 6)] == [found] * 5
        assert agents.pmd_mapped(4, at[4]) == SIZE
        with calls.mapped(SIZE, RW, SHARED_PT, fd) as late:
            assert calls.faults(late, SIZE) == calls.link_faults(late, SIZE)
        assert sharing() == held

        assert agents.checksums(at, SIZE) == [zlib.crc32(data)] * 6
        for n in (0, 1, 4, 5):
            agents.do(n, "store", at[n], SIZE, n + 1)
            assert [agents.do(m, "peek", at[m] + SIZE - PAGE) for m in range(6)] == [n + 1] * 6
        assert not agents.do(2, "poke", at[2], 1)
        # The file has huge pages now. A guest asks for none all the same.
        assert [agents.collapse(n, at[n], SIZE) for n in (0, 2)] == ["EINVAL"] * 2
        assert agents.faults(1, at[1], SIZE) == 0


def test_an_ordinary_mapping_becomes_huge_again(huge_tmpfs: Path) -> None:
    """MADV_COLLAPSE of what is huge in the file already takes the caller's table, and nothing from guests."""
    path = huge_tmpfs / "file"
    path.write_bytes(pattern(SIZE))
    with opened(path) as fd, _Workers(3) as agents:
        at = [
            agents.do(n, "mmap", SIZE, RW, flags, fd)
            for n, flags in enumerate((SHARED_PT, SHARED_PT, MAP_SHARED))
        ]
        agents.do(2, "madvise", at[2], SIZE, MADV_NOHUGEPAGE)
        for n in range(3):
            agents.do(n, "touch", at[n], SIZE)
        found, own, tables = agents.frames(0, at[0], SIZE), agents.own_pages(2), sharing().tables
        assert agents.pmd_mapped(2, at[2]) == 0
        agents.do(2, "madvise", at[2], SIZE, MADV_HUGEPAGE)
        assert agents.collapse(2, at[2], SIZE) == ""
        assert agents.pmd_mapped(2, at[2]) == SIZE
        assert own - agents.own_pages(2) == GRANULES
        assert sharing().tables == tables
        assert [agents.frames(n, at[n], SIZE) for n in range(3)] == [found] * 3


@pytest.mark.usefixtures("khugepaged")
def test_khugepaged(huge_tmpfs: Path) -> None:
    """It collapses the file that a process maps ordinarily, while guests load and store."""
    path = huge_tmpfs / "file"
    small_pages(path, bytes(SIZE))
    with opened(path) as fd, _Workers(4) as agents:
        at = [agents.do(n, "mmap", SIZE, RW, SHARED_PT, fd) for n in (0, 1)]
        for n in (0, 1):
            agents.do(n, "touch", at[n], SIZE)
        held = sharing()
        # From here on it scans.
        at += [agents.do(n, "mmap", SIZE, RW, MAP_SHARED, fd) for n in (2, 3)]
        stored, deadline = 0, time.monotonic() + 60
        while agents.pmd_mapped(2, at[2]) < SIZE:
            assert time.monotonic() < deadline, (Path(_THP, "khugepaged/pages_collapsed").read_text(), held)
            agents.do(2, "touch", at[2], SIZE)
            agents.do(3, "touch", at[3], SIZE)
            assert {agents.do(n, "peek", at[n] + GRANULE) for n in range(4)} == {stored}
            stored = (stored + 1) % 256
            agents.do(stored % 2, "store", at[stored % 2], SIZE, stored)
        assert sharing() == held
        for n in (0, 3):
            agents.do(n, "touch", at[n], SIZE)
        assert agents.faults(1, at[1], SIZE) == 0
        found = agents.frames(0, at[0], SIZE)
        assert huge(found) == {True}
        assert [agents.frames(n, at[n], SIZE) for n in range(1, 4)] == [found] * 3
        assert (
            agents.checksums(at, SIZE)
            == [zlib.crc32((bytes([stored]) + bytes(PAGE - 1)) * (SIZE // PAGE))] * 4
        )


@pytest.mark.parametrize("way", ["hole", "truncation", "advice", "memory pressure", "debugger"])
def test_split(huge_tmpfs: Path, tmp_path: Path, way: str) -> None:
    """A huge page becomes small ones: the table that maps it stays, and what is next to it is not touched."""
    size = 2 * GRANULE
    data = pattern(size if way != "memory pressure" else GRANULE + 3 * PAGE)
    path = huge_tmpfs / "file"
    path.write_bytes(data)
    hole = slice(GRANULE + 100 * PAGE, GRANULE + 104 * PAGE)
    with opened(path) as fd, _Workers(3) as agents:
        at = [
            agents.do(n, "mmap", size, RW, flags, fd)
            for n, flags in enumerate((SHARED_PT, SHARED_PT, MAP_SHARED))
        ]
        # Advice leaves pages alone that an ordinary mapping has, too.
        members = (0, 1) if way == "advice" else (0, 1, 2)
        for n in members:
            agents.do(n, "touch", at[n], len(data))
        before, tables = agents.frames(0, at[0], size), sharing().tables
        assert huge(before) == {True}
        if 2 in members:
            assert agents.pmd_mapped(2, at[2]) >= GRANULE

        if way == "hole":
            files.fallocate(fd, files.PUNCH_HOLE | files.KEEP_SIZE, hole.start, hole.stop - hole.start)
            data = data[: hole.start] + bytes(hole.stop - hole.start) + data[hole.stop :]
        elif way == "truncation":
            os.ftruncate(fd, hole.start)
            data = data[: hole.start]
        elif way == "advice":
            agents.do(1, "madvise", at[1] + hole.start, hole.stop - hole.start, MADV_COLD)
        elif way == "debugger":
            # Of a process, at its addresses: by way of its links.
            with files.mounted(tmp_path / "debug", "debugfs") as debug:
                spot = at[0] + GRANULE
                (debug / "split_huge_pages").write_text(f"{agents.pid(0)},{spot:#x},{spot + GRANULE:#x}")
        else:
            # The rest of a huge page behind the end of the file is given back.
            Path("/proc/sys/vm/drop_caches").write_text("2")

        for n in members:
            assert agents.frames(n, at[n], GRANULE) == before[:PER_GRANULE]
        agents.do(0, "touch", at[0], len(data))
        assert agents.faults(1, at[1], len(data)) == 0
        after = agents.frames(0, at[0], size)
        assert huge(after[:PER_GRANULE]) == {True}
        assert huge(after[PER_GRANULE:]) == {False}
        assert after[len(data) // PAGE :] == [None] * (len(after) - len(data) // PAGE)
        assert sharing().tables == tables
        assert agents.checksums(at, len(data)) == [zlib.crc32(data)] * 3
        assert agents.frames(2, at[2], len(data)) == after[: len(data) // PAGE]
        if len(data) < size:
            assert [agents.do(n, "peek", at[n] + len(data)) for n in range(3)] == [None] * 3
        with calls.mapped(size, RW, SHARED_PT, fd) as late:
            assert calls.faults(late, len(data)) == calls.link_faults(late, len(data))


def test_in_place_of_a_mapping_by_huge_pages(huge_tmpfs: Path, idle: SharingCounters) -> None:
    """What an ordinary mapping had present by huge entries is present in the shared tables, for everyone."""
    data = pattern(SIZE)
    path = huge_tmpfs / "file"
    path.write_bytes(data)
    with opened(path) as fd, _Workers(3) as agents:
        area = [agents.do(n, "free_area", SIZE) for n in range(3)]
        for n in range(3):
            agents.do(n, "mmap", SIZE, RW, MAP_SHARED | MAP_FIXED, fd, 0, area[n])
            agents.do(n, "touch", area[n], SIZE)
        found = agents.frames(0, area[0], SIZE)
        assert agents.pmd_mapped(0, area[0]) == SIZE

        # Two granules in the middle; the ordinary mapping goes on at both ends.
        middle = area[0] + GRANULE
        agents.do(0, "mmap", 2 * GRANULE, RW, SHARED_PT | MAP_FIXED, fd, GRANULE, middle)
        assert sharing().tables - idle.tables == 2 + 2
        assert agents.faults(0, middle, 2 * GRANULE) == calls.link_faults(middle, 2 * GRANULE)
        assert agents.frames(0, area[0], SIZE) == found
        assert [agents.pmd_mapped(0, a) for a in (area[0], middle, area[0] + 3 * GRANULE)] == [
            GRANULE,
            0,
            GRANULE,
        ]

        # The others replace all of theirs, and find two granules done.
        for n in (1, 2):
            agents.do(n, "mmap", SIZE, RW, SHARED_PT | MAP_FIXED, fd, 0, area[n])
            assert agents.faults(n, area[n], SIZE) == calls.link_faults(area[n], SIZE)
            assert agents.frames(n, area[n], SIZE) == found
        assert sharing().tables - idle.tables == GRANULES + 2
        assert agents.checksums(area, SIZE) == [zlib.crc32(data)] * 3

        # And back: an ordinary mapping in a guest's place has huge pages, and takes nothing from the rest.
        agents.do(1, "mmap", SIZE, RW, MAP_SHARED | MAP_FIXED, fd, 0, area[1])
        agents.do(1, "touch", area[1], SIZE)
        assert agents.pmd_mapped(1, area[1]) == SIZE
        assert agents.faults(2, area[2], SIZE) == 0
        agents.do(1, "store", area[1], SIZE, 9)
        assert [agents.do(n, "peek", area[n] + 2 * GRANULE) for n in range(3)] == [9] * 3
        assert sharing().tables - idle.tables == GRANULES + 2


@pytest.mark.usefixtures("khugepaged")
def test_between_huge_pages_of_the_process(huge_tmpfs: Path) -> None:
    """Anonymous huge pages before and behind a guest; asking for them in the guest is refused."""
    path = huge_tmpfs / "file"
    path.write_bytes(bytes(GRANULE))
    anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
    with tuned(enabled="always"), opened(path) as fd, _Workers(2) as agents:
        area = [agents.do(n, "free_area", 3 * GRANULE) for n in (0, 1)]
        for n in (0, 1):
            agents.do(n, "mmap", 3 * GRANULE, RW, anonymous, -1, 0, area[n])
            agents.do(n, "mmap", GRANULE, RW, SHARED_PT | MAP_FIXED, fd, 0, area[n] + GRANULE)
            agents.do(n, "store", area[n], 3 * GRANULE, n + 1)
        for n in (0, 1):
            parts = [smaps(area[n] + part * GRANULE, agents.pid(n)) for part in range(3)]
            assert [part["AnonHugePages"] for part in parts] == ["2048 kB", "0 kB", "2048 kB"]
            assert [part["THPeligible"] for part in parts] == ["1", "0", "1"]
            assert parts[1]["ShmemPmdMapped"] == "0 kB"
            for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):
                assert agents.error(n, "madvise", area[n], 3 * GRANULE, advice) == "EINVAL"
                assert agents.error(n, "madvise", area[n] + GRANULE, GRANULE, advice) == "EINVAL"
            assert "hg" not in smaps(area[n] + GRANULE, agents.pid(n))["VmFlags"].split()
            agents.do(n, "madvise", area[n], 3 * GRANULE, MADV_NOHUGEPAGE)
        assert [agents.do(n, "peek", area[n] + part * GRANULE) for n in (0, 1) for part in range(3)] == [
            1,
            2,
            1,
            2,
            2,
            2,
        ]
        assert agents.faults(0, area[0] + GRANULE, GRANULE) == 0
        # The guest goes, and a huge page takes its place in the process's own table.
        agents.do(0, "mmap", GRANULE, RW, anonymous, -1, 0, area[0] + GRANULE)
        agents.do(0, "store", area[0] + GRANULE, GRANULE, 7)
        assert kib(agents.pid(0), area[0] + GRANULE, "AnonHugePages") == GRANULE // 1024
        assert agents.do(1, "peek", area[1] + GRANULE) == 2
        assert agents.faults(1, area[1] + GRANULE, GRANULE) == 0


def test_a_process_that_refuses_huge_pages(huge_tmpfs: Path) -> None:
    """What prctl(2) says of one process holds for none of those that share with it."""
    data = pattern(SIZE)
    path = huge_tmpfs / "file"
    path.write_bytes(data)
    with opened(path) as fd, _Workers(3) as agents:
        agents.call("refuse_huge_pages", members=[0])
        # It founds the domain.
        at = [agents.do(n, "mmap", SIZE, RW, SHARED_PT, fd) for n in (0, 1)]
        ordinary = [agents.do(n, "mmap", SIZE, RW, MAP_SHARED, fd) for n in (0, 1)]
        for n in (0, 1):
            agents.do(n, "touch", at[n], SIZE)
            agents.do(n, "touch", ordinary[n], SIZE)
        assert [agents.pmd_mapped(n, ordinary[n]) for n in (0, 1)] == [0, SIZE]
        found = agents.frames(0, at[0], SIZE)
        assert agents.frames(1, at[1], SIZE) == agents.frames(0, ordinary[0], SIZE) == found
        assert consecutive(found)
        assert agents.checksums(at, SIZE) == [zlib.crc32(data)] * 2


def test_anonymous_memory_collapsed(idle: SharingCounters) -> None:
    """Memory of a parent and its children, made huge through the kernel's own name for it."""
    size = 2 * GRANULE
    with calls.mapped(size, RW, SHARED_PT | MAP_ANONYMOUS) as at:
        calls.store(at, size, 5)
        with opened(Path(f"/proc/self/map_files/{at:x}-{at + size:x}")) as fd, _Workers(3) as agents:
            for n in (0, 1):
                agents.do(n, "touch", at, size)
            held = sharing()
            # Where the kernel puts such memory by itself it is aligned for huge pages by chance alone. And
            # collapsing makes no upper-level table: without one around the mapping it fails, for ever.
            ordinary = agents.do(2, "free_area", size)
            agents.do(2, "mmap", size, RW, MAP_SHARED | MAP_FIXED, fd, 0, ordinary)
            agents.do(2, "touch", ordinary, size)
            assert agents.collapse(2, ordinary, size) == ""
            assert agents.pmd_mapped(2, ordinary) == size
            assert agents.frames(0, at, size) == [None] * (size // PAGE)
            # One write fault maps the whole of a huge page, for this kind of memory; by PTEs, and for all.
            assert agents.do(1, "poke", at + 100 * PAGE, 6)
            found = agents.frames(0, at, size)
            assert found[PER_GRANULE:] == [None] * PER_GRANULE
            assert consecutive(found[:PER_GRANULE])
            assert sharing() == held
            assert agents.do(2, "peek", ordinary + 100 * PAGE) == 6
            assert agents.do(0, "peek", at + 101 * PAGE) == 5
            assert held.tables - idle.tables == 2 + 2


def test_collapsed_and_split_while_guests_store(huge_tmpfs: Path, tally: Path) -> None:
    """No store of a guest gets lost in a page that was being copied, and no table is taken away."""
    path = huge_tmpfs / "file"
    small_pages(path, bytes(GRANULE))
    # They use as many pages as a CPU has translations of, so that nothing makes them ask for one anew.
    with opened(path) as fd, Tally(tally, fd, 96, WRITERS) as writers:
        while not all(os.pread(fd, 8 * WRITERS, 95 * PAGE)[::8]):
            writers.check()
        held = sharing()
        collapsed = 0
        while collapsed < 32:
            with calls.mapped(GRANULE, RW, MAP_SHARED, fd) as at:
                # So that there are upper-level tables, which collapsing does not make.
                calls.touch(at, PAGE)
                error = calls.error_of(calls.madvise, at, GRANULE, MADV_COLLAPSE)
            assert error in ("", "EAGAIN")
            collapsed += error == ""
            writers.check()
            # A hole makes the huge page small ones.
            files.fallocate(fd, files.PUNCH_HOLE | files.KEEP_SIZE, GRANULE - PAGE, PAGE)
        assert sharing() == held
        counts = writers.end()
        data = os.pread(fd, 96 * PAGE, 0)
        assert [tallied(data, slot) for slot in range(WRITERS)] == [{count} for count in counts]
