# SPDX-License-Identifier: MIT
"""gunicorn with ``--preload``: one table in memory, made by the master, read by all workers."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from held import sharing
from ptshare import counters
from ptshare.lab.programs.gunicorn import Server

WORKERS = 8
MIB = 128
ENTRIES = MIB * 256
TOTAL = str(7 * ENTRIES * (ENTRIES - 1) // 2)
#: What the entries of one worker for the whole table take: 8 bytes for 4 KiB.
TABLES_KIB = MIB * 1024 // 512
APP = Path(__file__).with_name("table_app.py")
SWITCH = Path("/sys/kernel/mm/ptshare/enabled")

pytestmark = pytest.mark.guest_timeout(600)


@dataclass(frozen=True)
class Cost:
    """PageTables of /proc/meminfo, when all have read all less before; VmPTE added up; VmSharedPT."""

    grown_kib: int
    own_kib: int
    mapped_kib: set[int | None]


def serve(directory: Path) -> Server:
    return Server(directory, APP, WORKERS, {"TABLE_MIB": str(MIB)})


def assert_all_answer(server: Server) -> None:
    assert set(server.get_from_all("/scan").values()) == {TOTAL}
    assert [server.get(f"/entry/{number}") for number in (1, ENTRIES - 1)] == ["7", str(7 * (ENTRIES - 1))]


def cost(server: Server) -> Cost:
    assert counters.fold_per_cpu()
    before = counters.page_tables_kib()
    assert_all_answer(server)
    assert counters.fold_per_cpu()
    tables = [counters.process_tables(pid) for pid in server.pids]
    return Cost(
        counters.page_tables_kib() - before,
        sum(one.own_kib for one in tables),
        {one.shared_kib for one in tables},
    )


def test_workers_share_one_table(place: Path) -> None:
    """The same application on a kernel that cannot, and on one that can: there after a kill, too."""
    SWITCH.write_text("0")
    try:
        with serve(place) as server:
            ordinary = cost(server)
            assert sharing().domains == 0
    finally:
        SWITCH.write_text("1")
    assert ordinary.grown_kib >= WORKERS * TABLES_KIB
    assert ordinary.mapped_kib == {0}

    with serve(place) as server:
        shared = cost(server)
        assert sharing().domains == 1
        assert sharing().guests == WORKERS + 1
        assert sharing().tables * 4 < 2 * TABLES_KIB
        assert shared.mapped_kib == {MIB * 1024}
        # The table's are gone; what is left is for Python itself, the same in both.
        assert ordinary.own_kib - shared.own_kib >= 0.9 * WORKERS * TABLES_KIB, (ordinary, shared)
        # The whole machine's: whatever else began meanwhile is in it, on either side.
        assert ordinary.grown_kib - shared.grown_kib >= 0.7 * WORKERS * TABLES_KIB, (ordinary, shared)

        # The master makes another one, which has the table at once.
        victim = server.pids[0]
        os.kill(victim, signal.SIGKILL)
        assert_all_answer(server)
        assert victim not in server.pids
        assert {counters.process_tables(pid).shared_kib for pid in server.pids} == {MIB * 1024}
        assert sharing().guests == WORKERS + 1
