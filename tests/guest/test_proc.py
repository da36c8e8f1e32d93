# SPDX-License-Identifier: MIT
"""What /proc and /sys tell."""

import fcntl
import os
import re
import struct
from pathlib import Path

import calls
from agents import Agents
from calls import GIB, GRANULE, PAGE, RW, SHARED_PT, SPARSELY, R, X

from held import sharing
from ptshare import abi, counters
from ptshare.counters import SharingCounters


def test_sysfs(idle: SharingCounters) -> None:
    assert sorted(os.listdir(abi.SYSFS)) == ["domains", "enabled", "granule", "guests", "tables"]
    assert Path(abi.SYSFS, "granule").read_text() == f"{GRANULE}\n"
    with calls.memfd(4 * GRANULE) as fd:
        with (
            calls.mapped(4 * GRANULE, RW, SHARED_PT, fd) as at,
            calls.mapped(4 * GRANULE, RW, SHARED_PT, fd),
        ):
            assert (sharing().domains, sharing().guests) == (idle.domains + 1, idle.guests + 2)
            calls.touch(at, 3 * GRANULE)
            # Three tables of PTEs below a PMD and a PUD table.
            assert sharing().tables == idle.tables + 5
        assert sharing() == idle


def test_maps_name_the_file_and_the_protection_in_force(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(bytes(4 * GRANULE))
    fd = os.open(path, os.O_RDWR)
    try:
        with (
            calls.mapped(2 * GRANULE, R, SHARED_PT, fd, GRANULE) as other_class,
            calls.mapped(2 * GRANULE, RW, SHARED_PT, fd, GRANULE) as at,
            Agents(1) as agents,
        ):
            elsewhere = agents.do(0, "mmap", 4 * GRANULE, RW, SHARED_PT, fd)
            [whole] = calls.regions(at, at + 2 * GRANULE)
            assert (whole.start, whole.end) == (at, at + 2 * GRANULE)
            assert (whole.access, whole.offset, whole.name) == ("rw-s", GRANULE, str(path))
            agents.do(0, "mprotect", elsewhere + GRANULE + 3 * PAGE, 2 * PAGE, R)
            parts = calls.regions(at, at + 2 * GRANULE)
            assert [(r.start - at, r.end - at, r.access) for r in parts] == [
                (0, 3 * PAGE, "rw-s"),
                (3 * PAGE, 5 * PAGE, "r--s"),
                (5 * PAGE, 2 * GRANULE, "rw-s"),
            ]
            assert [r.offset - GRANULE for r in parts] == [0, 3 * PAGE, 5 * PAGE]
            assert {r.name for r in parts} == {str(path)}
            [unchanged] = calls.regions(other_class, other_class + 2 * GRANULE)
            assert unchanged.access == "r--s"
            agents.do(0, "mprotect", elsewhere, 4 * GRANULE, RW)
            assert len(calls.regions(at, at + 2 * GRANULE)) == 1
    finally:
        os.close(fd)


def smaps(start: int, end: int) -> list[dict[str, str]]:
    """The entries of /proc/self/smaps within [start, end)."""
    entries: list[dict[str, str]] = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line):
            entries.append({"start": head[1], "end": head[2], "access": head[3]})
        else:
            name, _, value = line.partition(":")
            entries[-1][name] = value.strip()
    return [e for e in entries if int(e["start"], 16) < end and int(e["end"], 16) > start]


def test_smaps() -> None:
    with calls.memfd(2 * GRANULE) as fd, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
        calls.store(at, GRANULE)
        calls.mprotect(at + GRANULE, GRANULE, R)
        first, second = smaps(at, at + 2 * GRANULE)
        assert "pt" in first["VmFlags"].split()
        assert (first["access"], second["access"]) == ("rw-s", "r--s")
        assert ("wr" in first["VmFlags"].split(), "wr" in second["VmFlags"].split()) == (True, False)
        assert (first["Size"], first["Rss"]) == ("2048 kB", "2048 kB")
        assert (second["Size"], second["Rss"]) == ("2048 kB", "0 kB")


def procmap_query(addr: int, wanted: int = 0) -> tuple[int, int, int, int]:
    """PROCMAP_QUERY of proc_pid_maps(5): start, end, flags and offset of what maps ``addr``.

    :param wanted: its query flags: what it is to be, and whether the next one that is so will do
    """
    size = 104
    request = bytearray(size)
    struct.pack_into("=QQQ", request, 0, size, wanted, addr)
    with open("/proc/self/maps", "rb") as file:
        fcntl.ioctl(file, 0xC0686611, request)
    _, _, _, start, end, flags, _, offset = struct.unpack_from("=QQQQQQQQ", request)
    return start, end, flags, offset


def test_procmap_query() -> None:
    with calls.memfd(2 * GRANULE) as fd, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
        readable_writable, readable, shared = 3, 1, 8
        start, end, flags, offset = procmap_query(at + PAGE)
        assert (start, end, offset) == (at, at + 2 * GRANULE, 0)
        assert flags == readable_writable | shared
        calls.mprotect(at + GRANULE, PAGE, R)
        start, end, flags, offset = procmap_query(at + GRANULE)
        assert (start, end, offset) == (at + GRANULE, at + GRANULE + PAGE, GRANULE)
        assert flags == readable | shared


def test_procmap_query_finds_by_the_protection_in_force() -> None:
    """And not by what a guest may become."""
    writable, executable, covering_or_next = 2, 4, 16
    with calls.memfd(2 * GRANULE) as fd, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
        calls.mprotect(at + PAGE, 2 * PAGE, R)
        calls.mprotect(at + 5 * PAGE, PAGE, R | X)
        assert procmap_query(at + PAGE, covering_or_next)[:2] == (at + PAGE, at + 3 * PAGE)
        assert procmap_query(at, writable)[:2] == (at, at + PAGE)
        assert procmap_query(at + 2 * PAGE, writable | covering_or_next)[:2] == (at + 3 * PAGE, at + 5 * PAGE)
        assert procmap_query(at, executable | covering_or_next)[:2] == (at + 5 * PAGE, at + 6 * PAGE)
        assert calls.error_of(procmap_query, at + 2 * PAGE, writable) == "ENOENT"
        assert calls.error_of(procmap_query, at, executable) == "ENOENT"


def test_status_tells_own_tables_from_shared_ones() -> None:
    with calls.memfd(GIB + GRANULE) as fd, Agents(1) as agents:
        own = agents.own_pages(0)
        at = agents.do(0, "mmap", GIB, RW, SHARED_PT, fd)
        assert agents.call("shared_kib") == [0]
        agents.do(0, "touch", at, GIB, SPARSELY)
        assert agents.call("shared_kib") == [GIB // 1024]
        assert agents.own_pages(0) - own <= 4
        agents.do(0, "munmap", at, GIB)
        assert agents.call("shared_kib") == [0]
        at = agents.do(0, "mmap", 3 * GRANULE, RW, SHARED_PT, fd, GIB - 2 * GRANULE)
        agents.do(0, "touch", at, GRANULE)
        agents.do(0, "touch", at + 2 * GRANULE, GRANULE)
        assert agents.call("shared_kib") == [2 * GRANULE // 1024]


def test_page_tables_counts_a_shared_table_once() -> None:
    with calls.memfd(256 << 20) as fd, Agents(16) as agents:
        size = 256 << 20
        at = agents.all_do("mmap", size, RW, SHARED_PT, fd)
        counters.fold_per_cpu()
        before = counters.page_tables_kib()
        for n in range(16):
            agents.do(n, "touch", at[n], size)
        counters.fold_per_cpu()
        # 128 tables of PTEs for the range, and in each process a handful for what it does besides.
        assert counters.page_tables_kib() - before <= (128 + 16 * 8) * PAGE // 1024


def test_clear_refs_leaves_guests_alone() -> None:
    """Another guest's accessed and soft-dirty bits are not this process's to clear."""
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as at:
        calls.store(at, GRANULE)
        for what in "14":
            Path("/proc/self/clear_refs").write_text(what)
        [entry] = smaps(at, at + GRANULE)
        assert entry["Referenced"] == "2048 kB"
        assert entry["access"] == "rw-s"


def test_trace_events() -> None:
    """Each of them, in the order in which things happen to one guest."""
    tracing = Path("/sys/kernel/tracing")
    switch, log = tracing / "events/ptshare/enable", tracing / "trace"
    log.write_text("")
    switch.write_text("1")
    try:
        with calls.memfd(2 * GRANULE) as fd:
            inode = os.fstat(fd).st_ino
            with calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
                calls.touch(at, PAGE)
                calls.mprotect(at, PAGE, R)
    finally:
        switch.write_text("0")
    found = re.findall(r" ptshare_(\w+): (.*)", log.read_text())
    log.write_text("")
    assert [name for name, _ in found] == ["create", "attach", "link", "mprotect", "unlink", "detach", "free"]
    assert f"ino={inode} " in found[0][1]
