# SPDX-License-Identifier: MIT
"""Parsers of /proc: recorded lines, odd names, and whatever else somebody may feed them."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptshare.audit import proc
from ptshare.audit.proc import FormatError, Vma

#: /proc/PID/status of Debian's 6.1, shortened.
STATUS = b"""\
Name:\tpostgres
Umask:\t0077
State:\tS (sleeping)
Tgid:\t4711
Ngid:\t0
Pid:\t4711
PPid:\t4700
TracerPid:\t0
Uid:\t0\t105\t105\t105
Gid:\t113\t113\t113\t113
VmPeak:\t  217032 kB
VmSize:\t  216984 kB
VmHWM:\t   29064 kB
VmRSS:\t   29064 kB
VmPTE:\t     136 kB
VmSwap:\t       0 kB
Threads:\t1
"""

MAPS = b"".join(
    line + b"\n"
    for line in (
        b"5581a0e00000-5581a0f00000 r-xp 00000000 fe:01 1835030      /usr/lib/postgresql/15/bin/postgres",
        b"7f0000000000-7f0040000000 rw-s 00000000 00:01 2059         /dev/zero (deleted)",
        rb"7f0040000000-7f0040200000 r--s 00200000 00:1a 77        /dev/shm/two words\012and lines (deleted)",
        b"7f0040200000-7f0040201000 rw-p 00000000 00:00 0 ",
        b"7f0040201000-7f0040202000 rw-s 00000000 103:00003 18446744073709551615 /mnt/\xff\xfe",
        b"7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0            [stack]",
        b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]",
    )
)


def test_status() -> None:
    status = proc.parse_status(STATUS)
    assert status == proc.Status("postgres", 4711, 4700, 105, 216984, 29064, 136, None)
    ours = proc.parse_status(STATUS + b"VmSharedPT:\t  2048 kB\n")
    assert ours is not None
    assert ours.shared_pt == 2048


def test_who_has_no_memory() -> None:
    assert proc.parse_status(b"Name:\tkthreadd\nTgid:\t2\nPPid:\t0\nUid:\t0\t0\t0\t0\n") is None


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (rb"a\nb", "a\nb"),
        (rb"a\\nb", r"a\nb"),
        (rb"a\\\nb", "a\\\nb"),
        (b"with space", "with space"),
        (b"VmPTE:\t9 kB", "VmPTE:\t9 kB"),
        (b"\xff", "\udcff"),
        (b"", ""),
    ],
)
def test_names_of_processes(written: bytes, name: str) -> None:
    status = proc.parse_status(STATUS.replace(b"postgres", written))
    assert status is not None
    assert (status.name, status.vm_pte) == (name, 136)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no status\n",
        STATUS.replace(b"136 kB", b"136 MB"),
        STATUS.replace(b"136 kB", b"-1 kB"),
        STATUS.replace(b"Uid:", b"Gid:"),
        STATUS[:-40].replace(b"VmPTE:\t     136 kB", b"VmPTE:\t"),
    ],
)
def test_what_is_no_status(data: bytes) -> None:
    with pytest.raises(FormatError):
        proc.parse_status(data)


def test_maps() -> None:
    code, memory, file, anonymous, odd, stack, vsyscall = proc.parse_maps(MAPS)
    assert code == Vma(
        0x5581A0E00000,
        0x5581A0F00000,
        True,
        False,
        True,
        False,
        0,
        0xFE,
        1,
        1835030,
        "/usr/lib/postgresql/15/bin/postgres",
    )
    assert (memory.shared, memory.writable, memory.name) == (True, True, "/dev/zero (deleted)")
    assert (file.offset, file.name) == (2 << 20, "/dev/shm/two words\nand lines (deleted)")
    assert (anonymous.name, anonymous.inode) == ("", 0)
    assert (odd.major, odd.minor, odd.inode) == (0x103, 3, (1 << 64) - 1)
    assert odd.name == "/mnt/\udcff\udcfe"
    assert (stack.name, vsyscall.start) == ("[stack]", 0xFFFFFFFFFF600000)
    assert list(proc.parse_maps(MAPS, shared_only=True)) == [memory, file, odd]


@pytest.mark.parametrize(
    "line",
    [
        b"7f00-7f01 rw-s 00000000 00:01",
        b"7f00-7f01 rw-q 00000000 00:01 5 /x",
        b"7f00 rw-s 00000000 00:01 5 /x",
        b"7f00-7f01 rw-s 00000000 00:01 5 /x\x00\n\x00",
        b"-",
    ],
)
def test_what_is_no_line_of_maps(line: bytes) -> None:
    with pytest.raises(FormatError, match="not a line of maps"):
        list(proc.parse_maps(line + b"\n"))


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (proc.parse_status, lambda data: list(proc.parse_maps(data))):
        with contextlib.suppress(FormatError):
            parse(data)
    proc.shared_pt_starts(data)
    proc.in_cgroup(data, "/a")


VMAS = st.builds(
    Vma,
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, (1 << 63) - 1),
    st.integers(0, (1 << 12) - 1),
    st.integers(0, (1 << 20) - 1),
    st.integers(0, (1 << 64) - 1),
    st.binary(max_size=300)
    .filter(lambda name: b"\0" not in name and b"\\012" not in name and not name.startswith(b" "))
    .map(os.fsdecode),
    st.just(0),
)


def written(vma: Vma) -> bytes:
    """As fs/proc/task_mmu.c writes it."""
    letters = "".join(
        letter if flag else "-"
        for letter, flag in zip("rwx", (vma.readable, vma.writable, vma.executable), strict=True)
    )
    letters += "s" if vma.shared else "p"
    device = f"{vma.major:02x}:{vma.minor:02x}"
    line = f"{vma.start:08x}-{vma.end:08x} {letters} {vma.offset:08x} {device} {vma.inode} "
    name = os.fsencode(vma.name).replace(b"\n", rb"\012")
    return line.encode().ljust(73) + name + b"\n" if name else line.encode()[:-1] + b"\n"


@given(st.lists(VMAS))
def test_what_the_kernel_writes_is_read(vmas: list[Vma]) -> None:
    data = b"".join(map(written, vmas))
    assert list(proc.parse_maps(data)) == vmas
    assert list(proc.parse_maps(data, shared_only=True)) == [vma for vma in vmas if vma.shared]


def test_mappings_with_shared_tables() -> None:
    smaps = b"""7f00000000-7f40000000 rw-s 00000000 00:01 5    /memfd:VmFlags: pt (deleted)
Size:            1048576 kB
VmFlags: rd wr sh mr mw me ms sd pt
8000000000-8040000000 rw-s 00000000 00:01 5    /memfd:x (deleted)
VmFlags: rd wr sh mr mw me ms sd
"""
    assert proc.shared_pt_starts(smaps) == {0x7F00000000}


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/system.slice/postgresql.service", True),
        ("system.slice/", True),
        ("/", True),
        ("/system", False),
        ("/system.slice/postgresql.service/below", False),
    ],
)
def test_control_groups(path: str, inside: bool) -> None:
    """Version 2, and a hierarchy of version 1."""
    name = "/system.slice/postgresql.service"
    assert proc.in_cgroup(f"0::{name}\n".encode(), path) is inside
    assert proc.in_cgroup(f"12:cpuset:/x\n4:memory:{name}\n1:name=systemd:/y\n".encode(), path) is inside


def test_meminfo_and_file_systems(tmp_path: Path) -> None:
    directory = tmp_path / "proc/self"
    directory.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  2048 kB\nHugePages_Total:       3\n")
    assert proc.meminfo(str(tmp_path)) == {"MemTotal": 2 << 20, "HugePages_Total": 3}
    (tmp_path / "proc/meminfo").write_text("MemTotal:  many kB\n")
    with pytest.raises(FormatError, match="not a line of /proc/meminfo"):
        proc.meminfo(str(tmp_path))
    (directory / "mountinfo").write_bytes(
        b"22 28 0:20 / /proc rw,nosuid - proc proc rw,hidepid=invisible\n"
        b"28 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n"
        b"99 28 0:33 / /mnt/a\\040b\xff rw shared:3 master:1 - tmpfs tmpfs rw\n\ncut"
    )
    assert proc.filesystems(str(tmp_path)) == {"0:20": "proc", "254:1": "ext4", "0:33": "tmpfs"}
    assert proc.filesystems(str(tmp_path / "nowhere")) == {}
