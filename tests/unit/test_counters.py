# SPDX-License-Identifier: MIT
"""The kernel's counters, read from recorded files and from this kernel."""

import mmap
import os
from pathlib import Path

import pytest

from ptshare import counters

MEMINFO = """\
MemTotal:       24624140 kB
MemFree:        24010024 kB
MemAvailable:   24111140 kB
PageTables:         1288 kB
HugePages_Total:       0
"""

STATUS = """\
Name:\tpython3
Umask:\t0022
Groups:\t
VmPeak:\t    3060 kB
VmPTE:\t      44 kB
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A root with a recorded /proc and /sys."""
    sharing = tmp_path / "sys/kernel/mm/ptshare"
    process = tmp_path / "proc/7"
    for directory in (sharing, process):
        directory.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    (process / "status").write_text(STATUS)
    for name, value in [
        ("granule", 2097152),
        ("domains", 1),
        ("guests", 64),
        ("tables", 513),
        ("enabled", 1),
    ]:
        (sharing / name).write_text(f"{value}\n")
    return tmp_path


def test_meminfo(recorded: Path) -> None:
    assert counters.page_tables_kib(recorded) == 1288
    assert counters.mem_available_kib(recorded) == 24111140


def test_a_file_without_the_line_is_named(recorded: Path) -> None:
    (recorded / "proc/meminfo").write_text("MemTotal: 1 kB\n")
    with pytest.raises(ValueError, match="meminfo has no line PageTables"):
        counters.page_tables_kib(recorded)


def test_status(recorded: Path) -> None:
    assert counters.process_tables(7, recorded) == counters.ProcessTables(own_kib=44, shared_kib=None)
    status = recorded / "proc/7/status"
    status.write_text(STATUS + "VmSharedPT:\t 1048576 kB\n")
    assert counters.process_tables(7, recorded).shared_kib == 1048576
    with pytest.raises(FileNotFoundError):
        counters.process_tables(8, recorded)


def test_a_root_that_is_a_string(recorded: Path) -> None:
    root = str(recorded)
    assert counters.page_tables_kib(root) == counters.page_tables_kib(root=root) == 1288
    assert counters.mem_available_kib(root) == 24111140
    assert counters.process_tables(7, root).own_kib == 44
    assert counters.sharing_counters(root) is not None
    assert not counters.fold_per_cpu(root)


def test_sysfs(recorded: Path) -> None:
    assert counters.sharing_counters(recorded) == counters.SharingCounters(
        granule=2 << 20, domains=1, guests=64, tables=513, enabled=True
    )
    assert counters.sharing_counters(recorded / "proc") is None


def test_folding_needs_the_file(recorded: Path) -> None:
    assert not counters.fold_per_cpu(recorded)
    refresh = recorded / "proc/sys/vm/stat_refresh"
    refresh.parent.mkdir(parents=True)
    refresh.touch()
    assert counters.fold_per_cpu(recorded)


def test_this_kernel_counts_tables_and_faults() -> None:
    size = 64 << 20
    with mmap.mmap(-1, size) as mapping:
        tables, faults = counters.process_tables().own_kib, counters.minor_faults()
        mapping[:: mmap.PAGESIZE] = bytes(size // mmap.PAGESIZE)
        assert counters.process_tables().own_kib - tables >= size // (2 << 20) * 4
        assert counters.minor_faults() > faults
    assert counters.process_tables(os.getpid()).own_kib < tables + size // (2 << 20) * 4
