# SPDX-License-Identifier: MIT
"""What the kernel counts agrees with the truth: pages once over all who share them, tables once."""

import os
import re
import struct
from pathlib import Path

import calls
from agents import Agents
from calls import GIB, GRANULE, PAGE, RW, SHARED_PT, R
from pagebits import entries, frames, mapped, smaps

from ptshare import counters

#: Documentation/admin-guide/mm/pagemap.rst
_KPF_PGTABLE = 1 << 26
_EXCLUSIVE = 1 << 56


def _kib(text: str) -> int:
    match = re.fullmatch(r"(\d+) kB", text)
    assert match is not None
    return int(match[1])


_MADV_HUGEPAGE = 14


def _smaps(addr: int, pid: int | str = "self") -> dict[str, int]:
    return {name: _kib(value) for name, value in smaps(addr, pid).items() if value.endswith(" kB")}


def _rollup(pid: int | str = "self") -> dict[str, int]:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def _status(name: str, pid: int | str = "self") -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def test_a_page_counts_once_over_all() -> None:
    """Four guests, one of them of half of the file, and an ordinary mapping of a part."""
    kib = GRANULE >> 10
    with (
        calls.memfd(2 * GRANULE) as fd,
        Agents(4) as agents,
        calls.mapped(GRANULE, RW, calls.MAP_SHARED, fd) as plain,
    ):
        size, offset = [2 * GRANULE] * 3 + [GRANULE], [0] * 3 + [GRANULE]
        at = [agents.do(n, "mmap", size[n], RW, SHARED_PT, fd, offset[n]) for n in range(4)]
        agents.do(0, "store", at[0], 2 * GRANULE)
        for n in (1, 2, 3):
            agents.do(n, "touch", at[n], size[n])
        found = [_smaps(at[n], agents.pid(n)) for n in range(4)]
        # The first granule is linked by three, the second by four.
        assert [f["Rss"] for f in found] == [2 * kib] * 3 + [kib]
        assert [f["Pss"] for f in found] == [kib // 3 + kib // 4] * 3 + [kib // 4]
        for f in found:
            assert f["Private_Clean"] + f["Private_Dirty"] == 0
            assert f["Shared_Clean"] + f["Shared_Dirty"] == f["Rss"]
        # One table of three guests, and one of an ordinary mapping, map the first granule: two halves.
        calls.touch(plain, GRANULE)
        assert _smaps(plain)["Pss"] == kib // 2
        assert abs(_smaps(at[0], agents.pid(0))["Pss"] - (kib / 6 + kib / 4)) <= 1
        found = [_smaps(at[n], agents.pid(n)) for n in range(4)]
        total = sum(f["Pss"] for f in found) + _smaps(plain)["Pss"]
        assert 2 * kib - 5 <= total <= 2 * kib  # rounded down five times
        # Who is left has it for itself.
        for n in (1, 2, 3):
            agents.do(n, "munmap", at[n], size[n])
        calls.munmap(plain, GRANULE)
        alone = _smaps(at[0], agents.pid(0))
        assert alone["Pss"] == alone["Private_Dirty"] == 2 * kib


def test_links_of_whole_gibs_count_too() -> None:
    """One guest links the GiB, another, which maps less of it, a granule."""
    kib = GRANULE >> 10
    with calls.memfd(GIB) as fd, Agents(2) as agents:
        whole = agents.do(0, "mmap", GIB, RW, SHARED_PT, fd)
        part = agents.do(1, "mmap", GRANULE, RW, SHARED_PT, fd, GRANULE)
        agents.do(0, "store", whole, 2 * GRANULE)
        agents.do(1, "touch", part, GRANULE)
        assert _status("VmSharedPT", agents.pid(0)) == GIB >> 10
        found = _smaps(whole, agents.pid(0))
        assert (found["Rss"], found["Pss"]) == (2 * kib, kib + kib // 2)
        assert (found["Private_Dirty"], found["Shared_Dirty"]) == (kib, kib)
        assert _smaps(part, agents.pid(1))["Pss"] == kib // 2
        exclusive = [bool(each & _EXCLUSIVE) for each in entries(whole, 2 * GRANULE, agents.pid(0))]
        assert exclusive == [True] * 512 + [False] * 512


def test_classes_count_apart() -> None:
    """Readers have tables of their own; the page is mapped by both sets."""
    kib = GRANULE >> 10
    with calls.memfd(GRANULE) as fd, Agents(4) as agents:
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        os.close(reader)
        at = [agents.do(n, "mmap", GRANULE, RW if n < 3 else R, SHARED_PT, fd) for n in range(4)]
        for n in range(4):
            agents.do(n, "touch", at[n], GRANULE)
        pss = [_smaps(at[n], agents.pid(n))["Pss"] for n in range(4)]
        assert pss == [kib // 6] * 3 + [kib // 2]


def test_rollup_is_the_sum() -> None:
    with calls.memfd(2 * GRANULE) as fd, Agents(2) as agents:
        at = agents.all_do("mmap", 2 * GRANULE, RW, SHARED_PT, fd)
        before = _rollup(agents.pid(0))
        for n in range(2):
            agents.do(n, "store", at[n], 2 * GRANULE)
        # The protection of a part changes how many lines smaps has, not the sum.
        agents.do(0, "mprotect", at[0] + PAGE, PAGE, R)
        after = _rollup(agents.pid(0))
        # The interpreter's own memory grows by some pages meanwhile; counted twice it would be 4096 KiB.
        slack = 3072
        assert 2 * GRANULE >> 10 <= after["Rss"] - before["Rss"] <= (2 * GRANULE >> 10) + slack
        assert GRANULE >> 10 <= after["Pss_Shmem"] - before["Pss_Shmem"] <= (GRANULE >> 10) + 64


def test_rollup_shares_nobodys_huge_page() -> None:
    """A huge page of the process's own behind a granule that two processes share."""
    kib = GRANULE >> 10
    with calls.memfd(GRANULE) as fd, Agents(2) as agents:
        pid, at = agents.pid(0), agents.do(0, "free_area", 2 * GRANULE)
        own = at + GRANULE
        agents.do(0, "mmap", GRANULE, RW, SHARED_PT | calls.MAP_FIXED, fd, 0, at)
        anonymous = calls.MAP_PRIVATE | calls.MAP_ANONYMOUS | calls.MAP_FIXED
        agents.do(0, "mmap", GRANULE, RW, anonymous, -1, 0, own)
        agents.do(0, "madvise", own, GRANULE, _MADV_HUGEPAGE)
        agents.do(0, "store", at, GRANULE)
        agents.do(1, "store", agents.do(1, "mmap", GRANULE, RW, SHARED_PT, fd), GRANULE)
        before = _rollup(pid)
        agents.do(0, "store", own, PAGE)
        assert _smaps(own, pid)["AnonHugePages"] == kib
        # And what the interpreter needs meanwhile, or has no longer in common with who reads this.
        assert kib <= _rollup(pid)["Pss_Anon"] - before["Pss_Anon"] <= kib + 1024


def _resident_of_stat(pid: int) -> int:
    """Of /proc/PID/stat, pages: field 24; the second one may have spaces in it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[24 - 3])


def test_resident_memory_of_status_and_statm(tmpfs: Path, ext4: Path) -> None:
    """VmRSS counts what is linked by whole granules, as RssShmem or RssFile, and nothing once unmapped."""
    for directory, name, other in ((tmpfs, "RssShmem", "RssFile"), (ext4, "RssFile", "RssShmem")):
        path = directory / "file"
        path.write_bytes(bytes(3 * GRANULE))
        fd = os.open(path, os.O_RDWR)
        with Agents(1) as agents:
            pid = agents.pid(0)
            at = agents.do(0, "mmap", 3 * GRANULE, RW, SHARED_PT, fd)
            agents.do(0, "peek", at)  # what the call itself needs is there
            before = {field: _status(field, pid) for field in (name, other, "VmRSS")}
            statm = [int(each) for each in Path(f"/proc/{pid}/statm").read_text().split()]
            agents.do(0, "peek", at + GRANULE)
            agents.do(0, "peek", at + 2 * GRANULE)
            kib = 2 * GRANULE >> 10
            # Of files, the interpreter's own text is counted, too.
            own = 256 if name == "RssFile" else 0
            assert kib <= _status(name, pid) - before[name] <= kib + own
            assert abs(_status(other, pid) - before[other]) <= 256
            assert kib <= _status("VmRSS", pid) - before["VmRSS"] <= kib + 1024
            now = [int(each) for each in Path(f"/proc/{pid}/statm").read_text().split()]
            assert kib // 4 <= now[1] - statm[1] <= kib // 4 + 256
            assert now[2] - statm[2] >= kib // 4
            assert abs(_resident_of_stat(pid) - now[1]) <= 256
            last = _status(name, pid)
            agents.do(0, "munmap", at, 3 * GRANULE)
            assert 0 <= _status(name, pid) - (last - (3 * GRANULE >> 10)) <= own
        os.close(fd)


def _table_frames() -> int:
    """Frames that /proc/kpageflags tells to be page tables."""
    count = 0
    with open("/proc/kpageflags", "rb", buffering=0) as file:
        while data := file.read(1 << 20):
            count += sum(1 for (bits,) in struct.iter_unpack("Q", data) if bits & _KPF_PGTABLE)
    return count


def test_kpagecount_counts_tables() -> None:
    """A shared table maps a page once, whatever the number of processes; another class has its own."""
    with calls.memfd(GRANULE) as fd, Agents(5) as agents:
        reader = agents.call("open", f"/proc/self/fd/{fd}", os.O_RDONLY)
        how = [(RW, SHARED_PT, fd)] * 3 + [(R, SHARED_PT, reader[3]), (R, calls.MAP_SHARED, fd)]
        at = [agents.do(n, "mmap", GRANULE, *arguments) for n, arguments in enumerate(how)]
        for n in range(5):
            agents.do(n, "touch", at[n], GRANULE)
        found = frames(at[0], GRANULE, agents.pid(0))
        assert set(mapped(found)) == {3}
        left = []
        for n in (0, 3, 1, 4, 2):
            agents.do(n, "munmap", at[n], GRANULE)
            left.append(set(mapped(found)))
        assert left == [{3}, {2}, {2}, {1}, {0}]


def test_tables_by_what_the_frames_are() -> None:
    """PageTables of meminfo grows as the number of frames that are page tables, by the shared ones once."""
    with calls.memfd(8 * GRANULE) as fd, Agents(4) as agents:
        at = agents.all_do("mmap", 8 * GRANULE, RW, SHARED_PT, fd)
        _table_frames()  # what counting takes is there
        frames = _table_frames()
        assert counters.fold_per_cpu()
        meminfo = counters.page_tables_kib()
        agents.do(0, "store", at[0], 8 * GRANULE)
        for n in range(1, 4):
            agents.do(n, "touch", at[n], 8 * GRANULE)
        grown = _table_frames() - frames
        # Eight tables of PTEs and two above them in the host; in each guest at most two of its own.
        assert 10 <= grown <= 10 + 4 * 2
        assert counters.fold_per_cpu()
        assert (counters.page_tables_kib() - meminfo) // 4 == grown
