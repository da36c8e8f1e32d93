# SPDX-License-Identifier: MIT
"""The preload library's log, and what is made of it: recorded, with a recorded /proc."""

from pathlib import Path

import pytest

from ptshare.run import report
from ptshare.run.launch import Ended
from ptshare.run.log import Log, alive
from ptshare.run.sample import Peak, Sampler
from ptshare.support import granule

MIB = 1 << 20
LOG = """\
start\t100\tsh
start\t101\tserver
shared\t101\tserver\t1073750016\tanonymous
refused\t101\tserver\t16777216\t95\t/srv/huge/file
refused\t101\tserver\t16777216\t12\t/srv/huge/file
start\t102\tserver
start\t103\tserver
converted\t102\tserver\t1073750016\tmprotect\tanonymous
end\t102\tserver\t120\t-1
end\t999\tvfork\t5\t5
start\t104\tserver
end\t104\tclient\t88\t1050624
end\t100\tsh\t44\t0
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text(LOG)
    return path


def process(root: Path, pid: int, own_kib: int, shared_kib: int, library: bool = True) -> None:
    directory = root / "proc" / str(pid)
    directory.mkdir(parents=True)
    name = "/usr/lib/ptshare/preload/_library.so" if library else "/usr/lib/libc.so.6"
    (directory / "maps").write_text(f"7f0000000000-7f0000001000 r-xp 00000000 fe:00 5   {name}\n")
    (directory / "status").write_text(f"Name:\tserver\nVmPTE:\t{own_kib} kB\nVmSharedPT:\t{shared_kib} kB\n")


def test_what_was_mapped_and_by_whom(log: Path, tmp_path: Path) -> None:
    process(tmp_path, 101, 200, 2048)
    process(tmp_path, 103, 7, 7, library=False)  # another process that has got its number
    found = Log.read(log, tmp_path)
    anonymous = found.objects["anonymous"]
    assert (anonymous.shared, anonymous.size) == (1, 1073750016)
    assert anonymous.converted == {"mprotect": 1}
    assert found.objects["/srv/huge/file"].refused == {"EOPNOTSUPP": 1, "ENOMEM": 1}
    ends = {pid: (one.end, one.own_kib, one.shared_kib) for pid, one in found.processes.items()}
    assert ends == {
        100: ("ended", 44, 0),
        101: ("running", 200, 2048),
        102: ("ended", 120, None),
        103: ("killed", None, None),
        104: ("ended", 88, 1050624),
    }
    assert found.processes[104].command == "client"


def test_alive_is_who_has_the_library(tmp_path: Path) -> None:
    process(tmp_path, 101, 1, 1)
    process(tmp_path, 102, 1, 1, library=False)
    assert [alive(pid, tmp_path) for pid in (101, 102, 103)] == [True, False, False]


def test_the_peak_is_when_most_was_saved(tmp_path: Path) -> None:
    sysfs = tmp_path / "sys/kernel/mm/ptshare"
    sysfs.mkdir(parents=True)
    for name in ("granule", "domains", "guests", "enabled"):
        (sysfs / name).write_text("1\n")
    path = tmp_path / "log"
    path.write_text("")
    (sysfs / "tables").write_text("5\n")  # another program's
    sampler = Sampler(path, tmp_path)
    sampler.sample()
    assert sampler.peak == Peak()
    kib = 10 * granule() // 1024
    for pid in (101, 102, 103):
        process(tmp_path, pid, 100, kib)
    path.write_text("start\t101\ta\nstart\t102\ta\nstart\t103\ta\nsta")
    (sysfs / "tables").write_text("16\n")
    sampler.sample()
    assert sampler.peak == Peak(processes=3, linked=30, tables=11)
    assert sampler.peak.saved == 19
    path.write_text(path.read_text() + "rt\t104\ta\nend\t102\ta\t1\t1\n")
    sampler.sample()
    assert sampler.peak.processes == 3


def test_the_report(log: Path, tmp_path: Path) -> None:
    process(tmp_path, 101, 200, 2048)
    ended = Ended(0, Log.read(log, tmp_path), Peak(50, 25_600, 530))
    printed = "\n".join(report.lines(ended, None))
    assert "1.0 GiB  anonymous: once with shared page tables, once made ordinary by mprotect" in printed
    assert "16 MiB  /srv/huge/file: once refused (ENOMEM), once refused (EOPNOTSUPP)" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["101", "server", "200", "KiB", "2", "MiB", "still", "running"] in rows
    assert ["103", "server", "unknown", "unknown", "gone", "without", "a", "word"] in rows
    assert "2 more had no shared page tables when they ended" in printed
    assert (
        "50 processes used 25,600 page-table pages by links, of which 530 existed: saved 97.9 MiB" in printed
    )
    data = report.as_json(ended, None)
    assert data["peak"]["saved_bytes"] == (25_600 - 530) * 4096
    assert {one["end"] for one in data["processes"]} == {"ended", "running", "killed"}


def test_reports_of_nothing() -> None:
    ended = Ended(0, Log(), Peak())
    assert report.lines(ended, "this kernel does not have MAP_SHARED_PT") == [
        "ptshare run: nothing was shared: this kernel does not have MAP_SHARED_PT"
    ]
    (line,) = report.lines(ended, None)
    assert "no process made a shared mapping that is large enough" in line


def test_odd_names_are_names(tmp_path: Path) -> None:
    """What is no line's end to the library is none here; a last line without an end is half a line."""
    path = tmp_path / "log"
    names = ["/srv/carriage\rreturn", "/srv/form\x0cfeed", "/srv/line\u2028separator", "/srv/new\\012line"]
    lines = ["start\t1\tsh", *(f"shared\t1\tsh\t8388608\t{name}" for name in names), "shared\t1\tsh"]
    path.write_bytes("\n".join(lines).encode())
    assert list(Log.read(path, tmp_path).objects) == names
