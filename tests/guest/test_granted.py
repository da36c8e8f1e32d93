# SPDX-License-Identifier: MIT
"""What ``page_tables="auto"`` gives, with the feature and where it is switched off: huge pages."""

import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import calls
import pytest
from calls import GIB, GRANULE, MAP_FIXED_NOREPLACE, MAP_SHARED, RW

import ptshare
from ptshare import abi, counters
from ptshare.demo.crew import Crew

PAGE = mmap.PAGESIZE
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
#: Far from all else, and no multiple of 1 GiB.
ASKEW = 0x3000_0000_0000 + GRANULE
PROCESSES = 16


@pytest.fixture
def switched_off() -> Iterator[None]:
    """As on a kernel without the feature."""
    switch = Path(abi.SYSFS, "enabled")
    switch.write_text("0")
    yield
    switch.write_text("1")


@pytest.fixture
def reserved() -> Iterator[None]:
    """1 GiB of huge pages, and a few more."""
    (POOL / "nr_hugepages").write_text("520")
    assert (POOL / "nr_hugepages").read_text() == "520\n"
    yield
    (POOL / "nr_hugepages").write_text("0")


def free_huge_pages() -> int:
    return int((POOL / "free_hugepages").read_text())


class User:
    """A process that maps a file, each on its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._mapping: ptshare.Mapping | None = None

    def ready(self) -> None:
        """All of what the process needs besides is there."""
        with ptshare.Mapping(None, "r+", length=1, page_tables="ordinary") as mapping:
            mapping.report()

    def map(self) -> list[object]:
        self._mapping = ptshare.Mapping(self._fd, "r+", page_tables="auto")
        return [self._mapping.page_tables.granted, self._mapping.address]

    def map_askew(self) -> None:
        calls.mmap(GIB, RW, MAP_SHARED | MAP_FIXED_NOREPLACE, self._fd, 0, ASKEW)

    def touch(self) -> None:
        assert self._mapping is not None
        self._mapping[::GRANULE]

    def touch_askew(self) -> None:
        for at in range(ASKEW, ASKEW + GIB, GRANULE):
            assert calls.peek(at) == 0


def growth(crew: Crew, method: str) -> int:
    """PageTables, KiB, of all but the first, which makes the tables."""
    crew.call(method, members=[0])
    counters.fold_per_cpu()
    before = counters.page_tables_kib()
    crew.call(method, members=crew.members[1:])
    counters.fold_per_cpu()
    return counters.page_tables_kib() - before


@pytest.mark.usefixtures("switched_off", "reserved")
def test_anonymous_memory_in_huge_pages_whose_tables_the_kernel_shares() -> None:
    with ptshare.Mapping(None, "r+", length=GIB, page_tables="auto") as mapping:
        assert mapping.page_tables.granted == "hugetlb"
        assert mapping.page_tables.reason == f"switched off, {abi.SYSFS}/enabled is 0"
        assert mapping.address % GIB == 0
        fd = mapping._fd
        assert fd is not None
        with Crew(PROCESSES, lambda: User(fd)) as crew:
            crew.call("ready")
            for granted, address in crew.call("map"):
                assert granted == "hugetlb"
                assert address % GIB == 0
            shared = growth(crew, "touch")
            # This process has touched one page; the table has those that the others have touched, too.
            mapping[5] = 0
            report = mapping.report()
            assert (report.huge, report.own_tables, report.shared_tables) == (GIB, 0, 0)
            # The same memory where the kernel does not share its tables.
            crew.call("map_askew")
            apart = growth(crew, "touch_askew")
        print(f"PageTables of {PROCESSES - 1} processes more: {shared} KiB, apart {apart} KiB")
        # Apart each has two tables that hold the entries, and those above them.
        assert apart >= (PROCESSES - 1) * 8
        assert shared <= apart / 2
    assert free_huge_pages() == 520


@pytest.mark.usefixtures("switched_off", "reserved")
@pytest.mark.parametrize("length", [GIB + 5000, 513 * GRANULE])
def test_any_length_in_huge_pages(length: int) -> None:
    with ptshare.Mapping(None, "r+", length=length, page_tables="auto") as mapping:
        assert mapping.page_tables.granted == "hugetlb"
        assert len(mapping) == length
        mapping[length - 1] = 1
        with pytest.raises(ValueError, match="keeps its size"):
            mapping.resize(GIB)
    assert free_huge_pages() == 520


@pytest.mark.usefixtures("switched_off")
def test_ordinary_where_no_huge_pages_are_reserved() -> None:
    with ptshare.Mapping(None, "r+", length=GIB, page_tables="auto") as mapping:
        assert mapping.page_tables.granted == "ordinary"


@pytest.mark.usefixtures("switched_off", "reserved")
def test_ordinary_where_too_few_are_reserved_or_it_is_small() -> None:
    for length in (2 * GIB, GIB // 2):
        with ptshare.Mapping(None, "r+", length=length, page_tables="auto") as mapping:
            assert mapping.page_tables.granted == "ordinary"
        assert free_huge_pages() == 520


@pytest.mark.usefixtures("reserved")
def test_shared_comes_first() -> None:
    with ptshare.Mapping(None, "r+", length=GIB, page_tables="auto") as mapping:
        assert mapping.page_tables == ("auto", "shared", None)


@pytest.mark.usefixtures("reserved")
def test_a_file_of_huge_pages(tmp_path: Path) -> None:
    directory = tmp_path / "huge"
    directory.mkdir()
    subprocess.run(["mount", "-t", "hugetlbfs", "hugetlbfs", str(directory)], check=True)
    try:
        path = directory / "file"
        with path.open("w+b") as file:
            os.ftruncate(file.fileno(), GIB + GRANULE)
        with ptshare.Mapping(path, "r+", page_tables="auto") as mapping:
            assert mapping.page_tables.granted == "hugetlb"
            assert mapping.address % GIB == 0
            mapping[GIB] = 3
        with ptshare.Mapping(path, offset=GIB, page_tables="ordinary") as window:
            assert window.page_tables == ("ordinary", "hugetlb", None)
            assert window[0] == 3
        with pytest.raises(ptshare.UnsupportedError, match="for a file of this kind"):
            ptshare.Mapping(path)
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.usefixtures("switched_off")
def test_transparent_huge_pages_where_tmpfs_has_them_on_advice(tmp_path: Path) -> None:
    directory = tmp_path / "tmpfs"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "huge=advise", "tmpfs", str(directory)], check=True)
    try:
        path = directory / "file"
        with path.open("w+b") as file:
            os.ftruncate(file.fileno(), 4 * GRANULE)
        with ptshare.Mapping(path, "r+", page_tables="auto") as mapping:
            assert mapping.page_tables.granted == "ordinary"
            mapping.populate(write=True)
            report = mapping.report()
            assert (report.huge, report.own_tables) == (4 * GRANULE, 0)
        path.write_bytes(b"")
        os.truncate(path, 4 * GRANULE)
        with ptshare.Mapping(path, "r+", page_tables="ordinary") as mapping:
            mapping.populate(write=True)
            report = mapping.report()
            assert (report.huge, report.own_tables) == (0, 4)
    finally:
        subprocess.run(["umount", str(directory)], check=True)
