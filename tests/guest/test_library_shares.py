# SPDX-License-Identifier: MIT
"""``Mapping`` in started processes, ``SharedMemory``, ``memmap`` on the patched kernel: one set of tables."""

import errno
import mmap
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ptshare
from held import sharing
from ptshare import counters
from ptshare.counters import SharingCounters
from ptshare.report import Report

GRANULE = 2 << 20
PAGE = mmap.PAGESIZE
SIZE = 8 * GRANULE + 5000
#: Granules of it.
TABLES = 9

Thing = ptshare.Mapping | ptshare.SharedMemory


def visitor(pipe: Connection, thing: Thing) -> None:
    """A started process: reads a byte of every page, tells what faults that took and what it has then."""
    mapping = thing if isinstance(thing, ptshare.Mapping) else thing._open()
    with ptshare.Mapping(None, "r+", length=PAGE, page_tables="ordinary") as rehearsal:
        faults_of(rehearsal)
        rehearsal.report()
    faults = faults_of(mapping)
    pipe.send((faults, tuple(mapping.report()), counters.process_tables().shared_kib, sharing()))
    pipe.recv()
    thing.close()


def faults_of(mapping: ptshare.Mapping) -> int:
    """Faults taken by reading a byte of every page."""
    before = counters.minor_faults()
    mapping[::PAGE]
    return counters.minor_faults() - before


def visit(thing: Thing, method: str, idle: SharingCounters) -> tuple[int, Report]:
    """Send ``thing`` to a process that is started, which attaches and touches all of it."""
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=visitor, args=(there, thing))
    process.start()
    there.close()
    faults, report, shared_kib, held = here.recv()
    here.send(None)
    process.join()
    assert process.exitcode == 0
    process.close()
    here.close()
    assert (held.domains, held.guests) == (idle.domains + 1, idle.guests + 2)
    assert held.tables >= idle.tables + TABLES
    assert shared_kib == TABLES * GRANULE // 1024
    return faults, Report(*report)


def by_path(path: Path) -> ptshare.Mapping:
    return ptshare.Mapping(path)


def by_file(path: Path) -> ptshare.Mapping:
    with path.open("r+b") as file:
        return ptshare.Mapping(file, "r+")


def anonymous(_: Path) -> ptshare.Mapping:
    return ptshare.Mapping(None, "r+", length=SIZE)


def block(_: Path) -> ptshare.SharedMemory:
    return ptshare.SharedMemory(create=True, size=SIZE, page_tables="shared")


@pytest.fixture(scope="module", autouse=True)
def helpers() -> None:
    """What multiprocessing starts once, and then keeps descriptors of."""
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()
    multiprocessing.set_forkserver_preload(["ptshare.shared_memory"])
    forkserver.ensure_running()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("make", [by_path, by_file, anonymous, block])
def test_a_started_process_uses_the_tables(
    tmp_path: Path, idle: SharingCounters, make: Callable[[Path], Thing], method: str
) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(SIZE))
    thing = make(path)
    try:
        mapping = thing if isinstance(thing, ptshare.Mapping) else thing._open()
        assert mapping.page_tables == ("shared", "shared", None)
        mapping.populate(write=mapping.mode == "r+")
        report = mapping.report()
        assert (report.own_tables, report.shared_tables, report.huge) == (0, TABLES, 0)
        faults, report = visit(thing, method, idle)
        # At most one a granule, and some of the interpreter's; a fork's child has the links.
        assert faults <= TABLES + 8
        assert (report.own_tables, report.shared_tables) == (0, TABLES)
        assert report.faults >= faults
        assert report.page_tables == ("shared", "shared", None)
    finally:
        thing.close()
        if isinstance(thing, ptshare.SharedMemory):
            thing.unlink()


def test_attached_by_name(idle: SharingCounters) -> None:
    made = ptshare.SharedMemory(create=True, size=SIZE)
    other = ptshare.SharedMemory(made.name)
    try:
        assert made.page_tables == other.page_tables == ("auto", "shared", None)
        assert (sharing().domains, sharing().guests) == (idle.domains + 1, idle.guests + 2)
        made._open().populate(write=True)
        faults_of(other._open())
        assert other.report().shared_tables == TABLES
        assert sharing().tables <= idle.tables + TABLES + 4  # those above them, once
    finally:
        made.close()
        other.close()
        made.unlink()


@pytest.mark.parametrize("offset", [0, 8, GRANULE + 4096])
def test_a_memmap(tmp_path: Path, idle: SharingCounters, offset: int) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(SIZE))
    first, second = (ptshare.memmap(path, np.uint8, "r", offset) for _ in range(2))
    assert isinstance(first.base, ptshare.Mapping)
    assert isinstance(second.base, ptshare.Mapping)
    assert first.base.page_tables == ("auto", "shared", None)
    assert (sharing().domains, sharing().guests) == (idle.domains + 1, idle.guests + 2)
    assert first.sum() == np.fromfile(path, np.uint8, offset=offset).sum()
    before = counters.minor_faults()
    second[::PAGE].sum()
    assert counters.minor_faults() - before <= 2 * TABLES + 8
    assert second.base.report().shared_tables == TABLES - offset // GRANULE


def test_ordinary_tables_are_reported_as_its_own(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(SIZE))
    with ptshare.Mapping(path, page_tables="ordinary") as mapping:
        mapping.populate()
        report = mapping.report()
        assert report.shared_tables == 0
        assert TABLES <= report.own_tables <= TABLES + 1


def test_advice_reaches_the_shared_tables(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(SIZE))
    with ptshare.Mapping(path) as one, ptshare.Mapping(path) as other:
        one.populate()
        faults_of(other)
        one.advise("dontneed")  # its links alone
        assert (one.report().shared_tables, other.report().shared_tables) == (0, TABLES)
        one.populate(offset=3 * GRANULE, length=PAGE)
        # What is in the same 16 granules of addresses comes with it.
        assert 1 <= one.report().shared_tables <= TABLES
        with pytest.raises(OSError, match=r".") as caught:
            one.advise("hugepage")
        assert caught.value.errno == errno.EINVAL


def test_lock_whole_granules(tmp_path: Path) -> None:
    def locked() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmLck" in line)
        return int(line.split()[1]) << 10

    before = locked()
    with ptshare.Mapping(None, "r+", length=SIZE) as mapping:
        mapping.lock(2 * GRANULE, GRANULE)
        assert locked() == before + GRANULE
        mapping.lock()
        assert locked() == before + TABLES * GRANULE
        assert mapping.resident() == SIZE
        mapping.unlock()
        assert locked() == before
        with pytest.raises(OSError, match=r".") as caught:
            mapping.lock(PAGE, PAGE)
        assert caught.value.errno == errno.EINVAL
        assert locked() == before
