# SPDX-License-Identifier: MIT
"""What a ``ptshare.Mapping`` asks of the kernel: advice, pages in memory, locks, its report."""

import errno
import mmap
import os
import resource
from pathlib import Path

import pytest

import ptshare
from mapping_fixtures import GRANULE, make
from ptshare import report, syscalls

pytestmark = pytest.mark.usefixtures("nothing_leaked", "flag_taken")

PAGE = mmap.PAGESIZE
SIZES = [5000, 2 * GRANULE, GRANULE + 5000]


def granules(mapping: ptshare.Mapping) -> int:
    """Granules with a page in this process's page tables; a kernel may map a file by huge pages."""
    found = mapping.report()
    assert found.own_tables == 0
    return found.shared_tables + found.huge // GRANULE


@pytest.mark.parametrize("size", SIZES)
def test_populate_maps_every_page(tmp_path: Path, size: int) -> None:
    with ptshare.Mapping(make(tmp_path, size)) as mapping:
        assert granules(mapping) == 0
        mapping.populate()
        tables = granules(mapping)
        assert -(-size // GRANULE) <= tables <= -(-size // GRANULE) + 1  # its address may cross a granule
        mapping.advise("dontneed")
        assert granules(mapping) == 0


def test_populate_a_window(tmp_path: Path) -> None:
    with ptshare.Mapping(make(tmp_path, 3 * GRANULE)) as mapping:
        mapping.populate(offset=GRANULE, length=PAGE)
        assert granules(mapping) == 1


def test_populate_for_writing_allocates(tmp_path: Path) -> None:
    with ptshare.Mapping(None, "r+", length=GRANULE) as mapping:
        mapping.populate(length=PAGE)
        mapping.populate(write=True, length=GRANULE // 2)
        assert mapping.resident() >= GRANULE // 2
    with ptshare.Mapping(make(tmp_path, GRANULE)) as mapping, pytest.raises(OSError, match=r".") as caught:
        mapping.populate(write=True)
    assert caught.value.errno in (errno.EFAULT, errno.EINVAL, errno.EACCES)


@pytest.mark.parametrize("size", SIZES)
def test_resident_counts_what_is_in_memory(size: int) -> None:
    with ptshare.Mapping(None, "r+", length=size) as mapping:
        assert mapping.resident() == 0
        mapping[size - 1] = 1
        mapping[0] = 1
        assert mapping.resident() == min(size, 2 * PAGE)


def test_ordinary_tables_are_its_own(tmp_path: Path) -> None:
    with ptshare.Mapping(make(tmp_path, 3 * GRANULE), page_tables="ordinary") as mapping:
        mapping[0], mapping[2 * GRANULE]
        found = mapping.report()
        assert found.page_tables == ("ordinary", "ordinary", None)
        assert found.own_tables + found.huge // GRANULE == 2
        assert found.shared_tables == 0


def test_faults_are_counted_from_the_mapping_on() -> None:
    with ptshare.Mapping(None, "r+", length=4 * GRANULE) as mapping:
        before = mapping.report().faults
        assert 0 <= before < 200
        mapping[: 100 * PAGE : PAGE] = bytes(100)
        assert mapping.report().faults >= before + 100
        pid = os.fork()
        if pid == 0:  # a child begins to count anew
            usage = resource.getrusage(resource.RUSAGE_SELF)
            faults = mapping.report().faults
            os._exit(not usage.ru_minflt + usage.ru_majflt <= faults)
        assert os.waitpid(pid, 0)[1] == 0


def test_lock_and_unlock() -> None:
    def locked() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmLck" in line)
        return int(line.split()[1]) << 10

    before = locked()
    with ptshare.Mapping(None, "r+", length=10 * PAGE, page_tables="ordinary") as mapping:
        mapping.lock(2 * PAGE, PAGE)
        assert locked() == before + PAGE
        mapping.lock(5 * PAGE)
        assert mapping.resident() == 6 * PAGE
        mapping.unlock()
        assert locked() == before
    with ptshare.Mapping(None, "r+", length=10 * PAGE) as mapping:
        mapping.lock()
        assert locked() == before + GRANULE  # a table's worth
        assert mapping.resident() == 10 * PAGE
        mapping.unlock()
        assert locked() == before


def test_advice_by_name_and_by_number() -> None:
    with ptshare.Mapping(None, "r+", length=4 * PAGE) as mapping:
        mapping[:] = bytes([7]) * len(mapping)
        mapping.advise("random")
        mapping.advise(mmap.MADV_SEQUENTIAL)
        mapping.advise("remove", PAGE, PAGE)
        assert mapping[PAGE - 1 : PAGE + 1] == b"\x07\x00"
        with pytest.raises(ValueError, match=r"advice must be one of .*willneed.*not 'please'"):
            mapping.advise("please")
        with pytest.raises(OSError, match=r".") as caught:
            mapping.advise(12345)
        assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("call", ["advise", "lock", "unlock", "populate"])
def test_windows_that_are_not_in_the_mapping(call: str) -> None:
    with ptshare.Mapping(None, "r+", length=4 * PAGE) as mapping:
        method = {
            "advise": lambda *window: mapping.advise("normal", *window),
            "populate": lambda *window: mapping.populate(False, *window),
        }.get(call) or getattr(mapping, call)
        for window in ((1, None), (0, 0), (0, 4 * PAGE + 1), (4 * PAGE, None), (-PAGE, PAGE), (PAGE, -1)):
            with pytest.raises(ValueError, match=r"must be a multiple|not within"):
                method(*window)


@pytest.mark.parametrize("call", ["advise", "lock", "unlock", "populate", "protect"])
def test_windows_that_are_no_numbers(call: str) -> None:
    with ptshare.Mapping(None, "r+", length=4 * PAGE) as mapping:
        first = {"advise": ("normal",), "populate": (False,), "protect": ("r",)}.get(call, ())
        method = getattr(mapping, call)
        with pytest.raises(TypeError, match="offset must be an int, in bytes, not 'a'"):
            method(*first, "a")
        with pytest.raises(TypeError, match="offset must be an int, in bytes, not None"):
            method(*first, None)
        with pytest.raises(TypeError, match="length must be an int, in bytes, not '0'"):
            method(*first, 0, "0")


def test_protecting_what_only_readers_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of shared tables may not even lessen what is allowed; an ordinary mapping's reader may."""

    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    with ptshare.Mapping(None, "r", length=4 * PAGE) as mapping:
        monkeypatch.setattr(syscalls, "mprotect", deny)
        with pytest.raises(PermissionError, match=r"map it with 'r\+', or with page_tables='ordinary'$"):
            mapping.protect("none")


@pytest.mark.parametrize("size", [2 * GRANULE, GRANULE + 5000])
def test_a_truncated_file_is_noticed_before_a_sigbus(tmp_path: Path, size: int) -> None:
    path = make(tmp_path, size)
    with ptshare.Mapping(path) as mapping, ptshare.Mapping(path, offset=GRANULE) as window:
        assert (mapping.available(), window.available()) == (size, size - GRANULE)
        os.truncate(path, GRANULE + 100)
        assert (mapping.available(), window.available()) == (GRANULE + 100, 100)
        os.truncate(path, 100)
        assert (mapping.available(), window.available()) == (100, 0)
        assert mapping.size() == 100
        os.truncate(path, 4 * GRANULE)
        assert (mapping.available(), window.available()) == (size, size - GRANULE)


@pytest.mark.parametrize("size", [GRANULE, 5000])
def test_a_closed_mapping_says_so(tmp_path: Path, size: int) -> None:
    mapping = ptshare.Mapping(make(tmp_path, size))
    mapping.close()
    for use in (
        lambda: mapping.advise("normal"),
        mapping.populate,
        mapping.lock,
        mapping.unlock,
        mapping.resident,
        mapping.available,
        mapping.report,
        mapping.size,
    ):
        with pytest.raises(ValueError, match="closed"):
            use()


# How the kernel's files are read.


@pytest.mark.parametrize(
    ("populated", "tables"),
    [((), 0), ((0,), 1), ((511,), 1), ((512,), 1), ((0, 1, 511), 1), ((511, 512), 2), ((1100,), 1)],
)
def test_tables_are_granules_with_a_page(populated: tuple[int, ...], tables: int) -> None:
    entries = bytearray(1200 * 8)
    entries[7::8] = b"\x21" * 1200  # file page, soft-dirty bits: not present, not swapped
    for page in populated:
        entries[page * 8 + 7] = 0x80 if page % 2 else 0x40
    assert report.populated_tables(bytes(entries), 2 << 20, 4096) == tables


def test_huge_pages_within_a_range() -> None:
    smaps = """\
7f0000000000-7f0000400000 rw-s 00000000 00:01 7   /memfd:x (deleted)
Size:               4096 kB
ShmemPmdMapped:     2048 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
VmFlags: rd wr sh mr mw me ms sd
7f0000400000-7f0000800000 r--s 00400000 00:01 7   /memfd:x (deleted)
FilePmdMapped:      2048 kB
Private_Hugetlb:    2048 kB
7f0000800000-7f0000c00000 rw-s 00000000 00:01 8   /memfd:y (deleted)
ShmemPmdMapped:     4096 kB
""".splitlines()
    assert report.huge_bytes(smaps, 0x7F0000000000, 0x7F0000800000) == 6 << 20
    assert report.huge_bytes(smaps, 0x7F0000400000, 0x7F0000800000) == 4 << 20
    assert report.huge_bytes(smaps, 0x7F0000000000, 0x7F0000001000) == 0
