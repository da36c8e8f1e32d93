# SPDX-License-Identifier: MIT
"""The Python library on the patched kernel. Sharing is shown by counters, faults and the pagemap, never by
data alone.
"""

import errno
import gc
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

import ptshare
from ptshare import abi, counters
from ptshare.counters import SharingCounters
from ptshare.demo.crew import Crew

GRANULE = 2 << 20
PAGE = mmap.PAGESIZE
#: Faults that the interpreter may take beside those that are counted, when its heap grows just then. With
#: tables of their own 512 pages take 32 at least.
NOISE = 3


class User:
    """A process that uses mappings of the file ``path``, or one that it has by fork."""

    def __init__(self, path: Path, mapping: ptshare.Mapping | None = None) -> None:
        self._path = path
        self._mappings = [mapping] if mapping else []

    def map(self, mode: ptshare.mapping.Mode = "r", offset: int = 0, length: int | None = None) -> None:
        self._mappings.append(ptshare.Mapping(self._path, mode, offset=offset, length=length))

    def close(self) -> None:
        self._mappings.pop().close()

    def faults_of(self, first: int, pages: int) -> int:
        """Faults taken by reading ``pages`` pages from page ``first`` on."""
        # The same on a mapping with ordinary page tables, so that afterwards code and heap are there.
        with ptshare.Mapping(self._path, page_tables="ordinary") as rehearsal:
            self._faults_of(rehearsal, first, pages)
        return self._faults_of(self._mappings[-1], first, pages)

    def _faults_of(self, mapping: mmap.mmap, first: int, pages: int) -> int:
        faults = counters.minor_faults()
        mapping[first * PAGE : (first + pages) * PAGE : PAGE]
        return counters.minor_faults() - faults

    def present(self, page: int) -> bool:
        """This process's page tables have the page: proc_pid_pagemap(5), bit 63."""
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek((self._mappings[-1].address // PAGE + page) * 8)
            return bool(file.read(8)[7] & 0x80)

    def own_kib(self) -> int:
        return counters.process_tables().own_kib

    def shared_kib(self) -> int | None:
        return counters.process_tables().shared_kib

    def address(self) -> int:
        return self._mappings[-1].address

    def writable(self, at: int) -> bool:
        return writable(self._mappings[-1], at)

    def protect(self, mode: str, offset: int = 0, length: int | None = None) -> str:
        """``"EACCES"``, or ``""`` if it was granted."""
        try:
            self._mappings[-1].protect(mode, offset, length)  # type: ignore[arg-type]
        except PermissionError:
            return "EACCES"
        return ""

    def read(self, at: int) -> int:
        return self._mappings[-1][at]

    def write(self, at: int, value: int) -> None:
        self._mappings[-1][at] = value


def writable(mapping: mmap.mmap, at: int) -> bool:
    """A system call may write there; where it may not, it fails, and no signal comes."""
    with open("/dev/zero", "rb", buffering=0) as zero, memoryview(mapping) as view, view[at : at + 1] as byte:
        try:
            return zero.readinto(byte) == 1
        except OSError as error:
            if error.errno == errno.EFAULT:
                return False
            raise


def sharing() -> SharingCounters:
    """What the kernel holds for sharing now. The fixture ``idle`` has it as it was before the test, and
    checks that it is so again afterwards.
    """
    now = counters.sharing_counters()
    assert now is not None
    return now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """8 MiB and a bit, all in the page cache: 4 granules and a tail of 5000 bytes."""
    path = tmp_path / "data"
    path.write_bytes(os.urandom(4 * GRANULE + 5000))
    return path


def test_the_kernel_has_it() -> None:
    assert ptshare.probe() == ptshare.Support(supported=True, granule=GRANULE, reason=None)


def test_switched_off(file: Path) -> None:
    switch = Path(abi.SYSFS, "enabled")
    with ptshare.Mapping(file, length=GRANULE) as standing:
        switch.write_text("0")
        try:
            assert ptshare.probe().reason == f"switched off, {abi.SYSFS}/enabled is 0"
            for length in (GRANULE, 5000):
                with pytest.raises(ptshare.UnsupportedError, match="switched off") as caught:
                    ptshare.Mapping(file, length=length)
                assert caught.value.errno == errno.EOPNOTSUPP
            with pytest.raises(ptshare.UnsupportedError, match="switched off"):
                ptshare.Mapping(None, "r+", length=5000)
            with ptshare.Mapping(file, page_tables="auto") as mapping:
                assert mapping.page_tables.granted == "ordinary"
            assert standing[:] == file.read_bytes()[:GRANULE]
        finally:
            switch.write_text("1")
    assert ptshare.probe().supported


def test_a_page_that_another_process_touched_is_there_before_the_first_touch(file: Path) -> None:
    with Crew(2, lambda: User(file)) as crew:
        crew.call("map")
        assert crew.call("present", 7) == [False, False]
        crew.call("faults_of", 0, 4 * 512, members=[0])
        assert crew.call("present", 7) == [True, False]
        # One touch links the granule's table, with every page in it that the other one has touched.
        assert 1 <= crew.call("faults_of", 0, 1, members=[1])[0] <= 1 + NOISE
        assert crew.call("present", 7, members=[1]) == [True]
        assert crew.call("present", 511, members=[1]) == [True]
        assert crew.call("faults_of", 0, 512, members=[1])[0] <= NOISE


def test_a_page_touched_after_the_link_is_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(GRANULE))
    with Crew(2, lambda: User(path)) as crew:
        crew.call("map", "r+")
        crew.call("faults_of", 0, 1)
        if all(crew.call("present", 300)):
            pytest.fail("page 300 is there already: nothing can be shown")
        crew.call("faults_of", 300, 1, members=[1])
        assert crew.call("present", 300) == [True, True]


def test_tables_and_faults_of_a_further_process(file: Path) -> None:
    with Crew(3, lambda: User(file)) as crew:
        crew.call("map")
        crew.call("faults_of", 0, 4 * 512, members=[0])
        own = crew.call("own_kib", members=[1, 2])
        # One, or two if a multiple of 16 granules of addresses lies within.
        assert max(crew.call("faults_of", 0, 4 * 512, members=[1, 2])) <= 2 + NOISE
        grown = [now - before for now, before in zip(crew.call("own_kib", members=[1, 2]), own, strict=True)]
        assert max(grown) <= 8
        for kib in crew.call("shared_kib"):
            assert kib >= 4 * GRANULE // 1024


def test_one_domain_for_all_and_another_for_writers(idle: SharingCounters, file: Path) -> None:
    with Crew(4, lambda: User(file)) as crew:
        crew.call("map", "r", members=[0, 1])
        assert (sharing().domains, sharing().guests) == (idle.domains + 1, idle.guests + 2)
        crew.call("map", "r+", members=[2, 3])
        assert (sharing().domains, sharing().guests) == (idle.domains + 2, idle.guests + 4)
        crew.kill([0, 2])
        assert (sharing().domains, sharing().guests) == (idle.domains + 2, idle.guests + 2)


def test_the_tables_of_overlapping_windows_exist_once(file: Path) -> None:
    with Crew(2, lambda: User(file)) as crew:
        crew.call("map", members=[0])
        crew.call("faults_of", 0, 4 * 512, members=[0])
        tables = sharing().tables
        crew.call("map", "r", 2 * GRANULE, GRANULE, members=[1])
        assert 1 <= crew.call("faults_of", 0, 512, members=[1])[0] <= 1 + NOISE
        assert sharing().tables == tables
        data = file.read_bytes()
        assert crew.call("read", 17, members=[1]) == [data[2 * GRANULE + 17]]


@pytest.mark.parametrize("size", [1, 5000, GRANULE - 1, GRANULE, GRANULE + 1, 4 * GRANULE + 5000])
def test_a_file_of_any_size(tmp_path: Path, idle: SharingCounters, size: int) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(size))
    with ptshare.Mapping(path, "r+") as mapping:
        assert mapping.page_tables.granted == "shared"
        assert mapping.address % GRANULE == 0
        assert sharing().guests == idle.guests + 1
        assert len(mapping) == memoryview(mapping).nbytes == size
        assert mapping[:] == path.read_bytes()
        mapping[size - 1] ^= 0xFF
        mapping.flush()
        assert path.read_bytes()[-1] == mapping[size - 1]
    assert sharing().guests == idle.guests


@pytest.mark.parametrize("size", [GRANULE, GRANULE + 5000])
def test_views_keep_it_attached(tmp_path: Path, idle: SharingCounters, size: int) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(size))
    mapping = ptshare.Mapping(path)
    array = np.frombuffer(mapping, np.uint8)
    with pytest.raises(BufferError):
        mapping.close()
    assert array.sum() == 0
    assert sharing().guests == idle.guests + 1
    del array
    mapping.close()
    assert sharing().guests == idle.guests


@pytest.mark.parametrize("size", [GRANULE, GRANULE + 5000])
def test_a_forgotten_mapping_detaches(tmp_path: Path, idle: SharingCounters, size: int) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(size))
    mapping = ptshare.Mapping(path)
    assert sharing().guests == idle.guests + 1
    del mapping
    gc.collect()
    assert sharing().guests == idle.guests


def test_protect_is_for_every_process(file: Path) -> None:
    with Crew(4, lambda: User(file)) as crew:
        crew.call("map", "r+")
        assert crew.call("writable", 5000) == [True] * 4
        assert crew.call("protect", "r", members=[2]) == [""]
        assert crew.call("writable", 5000) == [False] * 4
        assert len(set(crew.call("read", 5000))) == 1
        # One who comes later gets what is in force, not what it asks for.
        with ptshare.Mapping(file, "r+") as late:
            assert not writable(late, 5000)
            late.protect("r+")
            assert writable(late, 5000)
        assert crew.call("writable", 5000) == [True] * 4


def test_protect_of_some_pages(file: Path) -> None:
    with Crew(2, lambda: User(file)) as crew:
        crew.call("map", "r+")
        assert crew.call("protect", "r", 2 * PAGE, PAGE, members=[0]) == [""]
        for page, allowed in ((1, True), (2, False), (3, True)):
            assert crew.call("writable", page * PAGE) == [allowed] * 2


def test_a_reader_gains_and_changes_nothing(file: Path) -> None:
    with Crew(2, lambda: User(file)) as crew:
        crew.call("map", "r+", members=[0])
        crew.call("map", "r", members=[1])
        assert crew.call("protect", "r+", members=[1]) == ["EACCES"]
        assert crew.call("protect", "none", members=[1]) == ["EACCES"]
        assert crew.call("read", 0, members=[1]) == list(file.read_bytes()[:1])
        assert crew.call("writable", 0, members=[0]) == [True]


def test_fork_attaches_the_child(file: Path, idle: SharingCounters) -> None:
    with ptshare.Mapping(file, "r+") as mapping:
        mapping[::PAGE]
        with Crew(2, lambda: User(file, mapping)) as crew:
            assert sharing().guests == idle.guests + 3
            assert all(1 <= faults <= 1 + NOISE for faults in crew.call("faults_of", 0, 1))
            assert crew.call("present", 300) == [True, True]
            crew.call("close", members=[0])
            assert sharing().guests == idle.guests + 2
            assert crew.call("faults_of", 0, 512, members=[1])[0] <= NOISE
        assert sharing().guests == idle.guests + 1
        assert mapping[:] == file.read_bytes()


@pytest.mark.parametrize("length", [5000, GRANULE, 3 * GRANULE + 1])
def test_anonymous_memory(idle: SharingCounters, length: int) -> None:
    with ptshare.Mapping(None, "r+", length=length) as mapping:
        assert (mapping.page_tables.granted, len(mapping)) == ("shared", length)
        assert sharing().domains == idle.domains + 1
        pid = os.fork()
        if pid == 0:
            mapping[length - 1] = 42
            os._exit(0)
        os.waitpid(pid, 0)
        assert mapping[length - 1] == 42


def test_killed_processes_leave_nothing(file: Path, idle: SharingCounters) -> None:
    for _ in range(20):  # then the fixture finds the counters at what they were
        with Crew(4, lambda: User(file)) as crew:
            crew.call("map", "r+")
            crew.call("faults_of", 0, 512, members=[0, 1])
            crew.kill(crew.members)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"offset": PAGE}, ValueError),
        ({"offset": 8 * GRANULE}, ValueError),
        ({"length": 0}, ValueError),
        ({"length": 5 * GRANULE}, ValueError),
        ({"length": -1}, OverflowError),
        ({"length": 1 << 63}, OverflowError),
    ],
)
def test_bad_windows_attach_nothing(
    file: Path, idle: SharingCounters, arguments: dict[str, int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        ptshare.Mapping(file, offset=arguments.get("offset", 0), length=arguments.get("length"))
    assert sharing() == idle


def test_a_descriptor_for_reading_is_not_written(file: Path, idle: SharingCounters) -> None:
    for length in (GRANULE, 5000):
        with file.open("rb") as opened, pytest.raises(PermissionError):
            ptshare.Mapping(opened, "r+", length=length)
    assert sharing() == idle


def test_files_that_the_kernel_does_not_share(tmp_path: Path) -> None:
    fd = os.memfd_create("huge", os.MFD_HUGETLB)
    try:
        os.ftruncate(fd, GRANULE)
        with pytest.raises(ptshare.UnsupportedError, match="for a file of this kind"):
            ptshare.Mapping(fd)
    finally:
        os.close(fd)
