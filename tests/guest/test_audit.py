# SPDX-License-Identifier: MIT
"""``ptshare audit`` on the patched kernel: what is shared already, huge pages, the kernel's own sharing."""

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import calls
import pytest

from held import sharing
from mapped import ADDRESS, children, mapped, memory
from ptshare import counters, syscalls
from ptshare.audit import estimate, ioctls
from ptshare.audit.collect import Scope, collect
from ptshare.audit.model import Audit, MappedObject
from ptshare.audit.proc import Vma
from ptshare.syscalls import GIB, GRANULE, PAGE, RW, SHARED_PT

MIB = 1 << 20


def of_inode(found: Audit, inode: int) -> MappedObject:
    (item,) = (item for item in found.objects if item.inode == inode)
    return item


def share(fd: int, granules: range, size: int = 16 * MIB) -> None:
    mapped(fd, size, granules, flags=SHARED_PT)


def test_what_shared_tables_save_now() -> None:
    """Of tables, the domain has one for each granule and class that anybody touched.

    Who comes later links more than he touches, so the last one maps no more than that.
    """
    with (
        memory(16 * MIB) as fd,
        children(*[partial(share, fd, range(8))] * 6, partial(share, fd, range(3), size=3 * GRANULE)) as pids,
    ):
        found = collect(Scope(pids=pids), count=False)
        held = sharing().tables
        item = of_inode(found, os.fstat(fd).st_ino)
        assert (item.linked, item.linked_needed, item.saved_now) == (6 * 8 + 3, 8, 5 * 8 + 3)
        assert (item.tables, item.duplicate, item.mappers) == (0, 0, 7)
        assert found.host.shared_tables == held
        assert held >= 8
        for process in found.processes:
            own = counters.process_tables(process.pid)
            assert process.shared_pt == (own.shared_kib or 0) << 10
            assert process.vm_pte == own.own_kib << 10


def test_some_share_and_some_do_not() -> None:
    """A file that processes map both ways, in one process too, and another one that nobody shares."""

    def both() -> None:
        share(one, range(8))
        mapped(one, 16 * MIB, range(4), address=ADDRESS + GIB)

    with memory(16 * MIB) as one, memory(16 * MIB) as other:
        acts: list[Callable[[], object]] = [
            partial(share, one, range(8)),
            partial(share, one, range(8)),
            both,
        ]
        acts += [partial(mapped, one, 16 * MIB, range(8)), partial(mapped, other, 16 * MIB, range(8))]
        with children(*acts) as pids:
            found = collect(Scope(pids=pids), count=False)
            item = of_inode(found, os.fstat(one).st_ino)
            plain = of_inode(found, os.fstat(other).st_ino)
    assert (item.linked, item.linked_needed) == (3 * 8, 8)
    assert (item.tables, item.needed) == (4 + 8, 8)
    assert (plain.tables, plain.linked) == (8, 0)


def test_a_process_that_links_its_first_table_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status was read before: it does not have the table for its own."""
    listed = ioctls.shared_vmas

    def touched(maps: int, names: dict[tuple[int, int, int], str]) -> list[Vma]:
        vmas = list(listed(maps, names))
        calls.touch(at, GRANULE)
        return vmas

    monkeypatch.setattr(ioctls, "shared_vmas", touched)
    with memory(2 * GRANULE) as fd, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
        found = collect(Scope(pids=[os.getpid()]), count=False)
        item = of_inode(found, os.fstat(fd).st_ino)
        assert (item.tables, item.linked, item.linked_needed) == (0, 1, 1)
        (process,) = found.processes
        assert process.shared_pt == GRANULE


def test_the_kernel_has_what_makes_it_quick() -> None:
    found = collect(Scope(pids=[os.getpid()]), count=False)
    assert found.host.method == "PROCMAP_QUERY, PAGEMAP_SCAN"


def test_huge_pages_have_no_such_tables(tmp_path: Path) -> None:
    """tmpfs with huge=always: PAGEMAP_SCAN tells them; a small page among them has a table."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "huge=always", "none", str(tmp_path)], check=True)
    try:
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 16 * MIB)

        def act() -> None:
            at = syscalls.mmap(16 * MIB, RW, syscalls.MAP_SHARED | syscalls.MAP_FIXED, fd, 0, ADDRESS)
            syscalls.madvise(at, 16 * MIB, syscalls.MADV_POPULATE_WRITE)
            # Splits it.
            syscalls.madvise(at + 5 * GRANULE, PAGE, mmap.MADV_REMOVE)
            syscalls.madvise(at + 5 * GRANULE, GRANULE, syscalls.MADV_POPULATE_READ)

        with children(act) as pids:
            found = collect(Scope(pids=pids), count=False)
            items = [item for item in found.objects if item.inode == os.fstat(fd).st_ino]
        os.close(fd)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert [(item.kind, item.tables) for item in items] == [("tmpfs", 1)]


@pytest.mark.parametrize("processes", [1, 40])
def test_the_whole_host_is_explained(processes: int) -> None:
    """What page tables the kernel has, by its marks on pages; all but its own belong to processes."""
    with memory(256 * MIB) as fd, children(*[partial(mapped, fd, 256 * MIB, range(128))] * processes):
        found = collect(count=True)
        item = of_inode(found, os.fstat(fd).st_ino)
    assert item.tables == processes * 128
    machine = found.host
    assert machine.counted is not None
    # PageTables is folded first; processes of the guest's own come and go.
    assert abs(machine.counted - machine.page_tables) <= 64 * PAGE
    assert machine.page_tables - found.explained < 2 * MIB
    if processes == 40:
        assert found.explained / machine.page_tables > 0.95


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())", "audit"]
    with memory(16 * MIB, "shared table") as fd, children(*[partial(share, fd, range(8))] * 4) as pids:
        options = [word for pid in pids for word in ("--pid", str(pid))]
        saved = tmp_path / "saved.json"
        table = subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
        subprocess.run([*command, *options, "--save", str(saved)], check=True)
    assert "/memfd:shared table (deleted), " in table
    assert "(shared tables save 96 KiB now)" in table
    assert "96 KiB saved by shared tables" in table
    assert json.loads(saved.read_text())["host"]["saved_now_bytes"] == 24 * PAGE


def test_very_many_links_are_reckoned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """VmSharedPT tells how many a process has."""
    monkeypatch.setattr(estimate, "_MANY", 100)
    with (
        memory(16 * MIB) as fd,
        children(*[partial(share, fd, range(8))] * 20, partial(share, fd, range(3))) as pids,
    ):
        item = of_inode(collect(Scope(pids=pids), count=False), os.fstat(fd).st_ino)
    assert (item.estimated, item.mappers) == (5, 21)
    # The last one links what is around its three granules, too, as far as the others have come.
    assert 20 * 8 + 3 <= item.linked <= 21 * 8
    assert (item.linked_needed, item.tables) == (8, 0)


def test_a_process_with_100_000_mappings() -> None:
    """Half of them shared, in turns, so that none becomes one with another."""
    limit = Path("/proc/sys/vm/max_map_count")
    before = limit.read_text()
    limit.write_text("200000")
    try:
        with memory(PAGE) as fd:

            def act() -> None:
                size = 100_000 * PAGE
                at = syscalls.mmap(size, syscalls.NONE, syscalls.MAP_PRIVATE | syscalls.MAP_ANONYMOUS)
                for page in range(0, 100_000, 2):
                    syscalls.mmap(PAGE, RW, syscalls.MAP_SHARED | syscalls.MAP_FIXED, fd, 0, at + page * PAGE)
                    syscalls.madvise(at + page * PAGE, PAGE, syscalls.MADV_POPULATE_READ)

            with children(act) as pids:
                mappings = Path(f"/proc/{pids[0]}/maps").read_text().count("\n")
                item = of_inode(collect(Scope(pids=pids), count=False), os.fstat(fd).st_ino)
    finally:
        limit.write_text(before)
    assert mappings > 100_000
    assert item.mappers == 1
    # Each mapping has a table, but they have them together: no more than the process has.
    assert 100_000 // 512 <= item.tables <= 100_000 // 512 + 120
