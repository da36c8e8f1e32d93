# SPDX-License-Identifier: MIT
"""PostgreSQL under ``ptshare run``: what its backends share, and that all else is as without."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from held import settles, sharing
from ptshare import counters
from ptshare.audit.collect import collect
from ptshare.audit.verdict import verdict
from ptshare.lab.programs import RUN
from ptshare.lab.programs.postgres import Cluster, Connection, QueryError

pytestmark = [pytest.mark.usefixtures("programs"), pytest.mark.guest_timeout(900)]

BACKENDS = 50
#: Pages of 8 KiB, a row on each: 950 MiB of the 1 GiB of buffers.
PAGES = 121_600
FILLED_KIB = PAGES * 8
SCAN = "SELECT count(*), sum(id) FROM filler"
ANSWER = [(str(PAGES), str(PAGES * (PAGES + 1) // 2))]
#: The same of the table's first pages.
PART = 10_000
SCAN_PART = f"SELECT count(*), sum(id) FROM filler WHERE ctid < '({PART},0)'"
ANSWER_PART = [(str(PART), str(PART * (PART + 1) // 2))]
FRONT = (*RUN, "--")
#: Seconds that a server's last processes may take to end, on a busy machine.
PATIENCE = 60


@pytest.fixture(scope="module")
def cluster(programs: None, place: Path) -> Iterator[Cluster]:
    """A cluster with a table that fills its buffers. No server runs."""
    it = Cluster(place)
    try:
        it.start()
        with it.connect() as connection:
            connection.query("CREATE EXTENSION pg_prewarm")
            it.make_filler(connection, PAGES)
        it.stop()
        yield it
    finally:
        it.remove()


@contextmanager
def served(cluster: Cluster, *front: str) -> Iterator[None]:
    """The server runs. When it has stopped, the kernel holds nothing for it."""
    before = sharing()
    cluster.start(*front)
    try:
        yield
    finally:
        cluster.stop()
    assert settles(sharing, before, PATIENCE), f"{before} before, {sharing()} after the server's end"


@contextmanager
def connected(cluster: Cluster, count: int) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(cluster.connect()) for _ in range(count)]


def answers(connections: list[Connection], sql: str) -> list[object]:
    """What each backend answers; they work at the same time."""
    for connection in connections:
        connection.send(sql)
    return [connection.result() for connection in connections]


@dataclass(frozen=True)
class Cost:
    """What the scans of all backends cost.

    :param grown_kib: PageTables of /proc/meminfo, after the scans less before
    :param shared_kib: the tables of the domains, which one process may have made before
    :param own_kib: VmPTE of the backend that has most
    :param mapped_kib: VmSharedPT of the backend that has least
    """

    grown_kib: int
    shared_kib: int
    own_kib: int
    mapped_kib: int


def cost_of_scans(cluster: Cluster) -> Cost:
    with cluster.connect() as connection:
        assert connection.value("SELECT pg_prewarm('filler')") == str(PAGES)
    with connected(cluster, BACKENDS) as connections:
        assert counters.fold_per_cpu()
        before = counters.page_tables_kib()
        assert answers(connections, SCAN) == [ANSWER] * BACKENDS
        assert counters.fold_per_cpu()
        grown = counters.page_tables_kib() - before
        tables = [counters.process_tables(connection.pid) for connection in connections]
        return Cost(
            grown,
            sharing().tables * 4,
            max(one.own_kib for one in tables),
            min(one.shared_kib or 0 for one in tables),
        )


def test_fifty_backends(cluster: Cluster) -> None:
    """The same answers, for less than a twentieth of the page tables."""
    with served(cluster):
        ordinary = cost_of_scans(cluster)
        assert sharing().domains == 0
    # Each backend has its own entries for what it scanned: 8 bytes for 4 KiB. The one that filled the buffers
    # may have gone late, and its tables with it.
    assert ordinary.grown_kib >= (BACKENDS - 1) * FILLED_KIB // 512
    with served(cluster, *FRONT):
        shared = cost_of_scans(cluster)
    assert shared.mapped_kib >= FILLED_KIB
    assert shared.own_kib < FILLED_KIB // 512 // 4
    assert ordinary.grown_kib >= 20 * (shared.grown_kib + shared.shared_kib), (ordinary, shared)


def test_the_audit_of_a_database(cluster: Cluster) -> None:
    """What a DBA reads, before and after: who spends it on what, what would help, what is saved."""
    with served(cluster), connected(cluster, 6) as connections:
        assert answers(connections, SCAN_PART) == [ANSWER_PART] * 6
        found = collect(count=False)
        buffers, *_ = found.by_saving()
        assert (buffers.kind, buffers.name) == ("anonymous", "/dev/zero (deleted)")
        assert max(buffers.commands, key=lambda name: buffers.commands[name][1]) == "postgres"
        # Six backends and the server's own processes; each backend has all granules that its scan goes
        # through.
        assert buffers.mappers > 6
        assert buffers.duplicate >= 5 * (PART * 8 // 2048)
        said = verdict(found)
        assert "all from postgres on /dev/zero (deleted); huge_pages=on would free " in said
        assert "MAP_SHARED_PT (ptshare run) would free " in said
        before = buffers
    with served(cluster, *FRONT), connected(cluster, 6) as connections:
        assert answers(connections, SCAN_PART) == [ANSWER_PART] * 6
        found = collect(count=False)
        (shared,) = (item for item in found.objects if item.name == "/memfd:ptshare (deleted)")
        # And the PMD and PUD tables of the host.
        assert found.host.shared_tables is not None
        assert shared.linked_needed < found.host.shared_tables <= shared.linked_needed + 3
        assert shared.tables == 0
        assert shared.saved_now >= before.duplicate
        assert "saved by shared tables" in verdict(found)


def recovered(cluster: Cluster) -> Connection:
    """A connection to the server after a crash; until then it refuses, or nobody listens."""
    deadline = time.monotonic() + 240
    while True:
        try:
            return cluster.connect()
        except (OSError, QueryError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def assert_shares(connections: list[Connection]) -> None:
    """All have the part of the table that they scanned by tables that are not their own."""
    assert answers(connections, SCAN_PART) == [ANSWER_PART] * len(connections)
    for connection in connections:
        tables = counters.process_tables(connection.pid)
        assert tables.shared_kib is not None
        assert tables.shared_kib >= PART * 8
        assert tables.own_kib < 400
    assert sharing().domains == 1


def test_a_killed_backend(cluster: Cluster) -> None:
    """The server ends the others and makes its shared memory anew: shared, with what was committed."""
    with served(cluster, *FRONT):
        with connected(cluster, 8) as connections:
            assert_shares(connections)
            connections[0].query("SET synchronous_commit = on")
            connections[0].query("CREATE TABLE committed AS SELECT generate_series(1, 1000) AS n")
            postmaster, domains = cluster.postmaster, sharing()
            os.kill(connections[0].pid, signal.SIGKILL)
            for connection in connections:
                with pytest.raises(QueryError):
                    connection.query(SCAN_PART)
        with recovered(cluster) as connection:
            assert connection.value("SELECT sum(n) FROM committed") == "500500"
        assert cluster.postmaster == postmaster
        # Not one more: the memory from before the crash is gone.
        assert sharing().domains == domains.domains
        with connected(cluster, 8) as connections:
            assert_shares(connections)


def test_stop_and_start(cluster: Cluster) -> None:
    """At once, fast, and again; and started without pg_ctl, as a service manager does."""
    for _ in range(2):
        with served(cluster, *FRONT), connected(cluster, 4) as connections:
            assert_shares(connections)
    before = sharing()
    server = cluster.start_in_foreground(*FRONT)
    try:
        with recovered(cluster) as connection:
            assert cluster.postmaster == server.pid
            assert_shares([connection])
        server.send_signal(signal.SIGINT)
        assert server.wait(240) == 0
    finally:
        server.kill()
        server.wait()
    assert settles(sharing, before, PATIENCE)


def test_a_killed_postmaster(cluster: Cluster) -> None:
    """Its backends end by themselves, with them the tables; the next server starts and shares."""
    before = sharing()
    cluster.start(*FRONT)
    with connected(cluster, 4) as connections:
        assert_shares(connections)
        os.kill(cluster.postmaster, signal.SIGKILL)
        for connection in connections:
            with pytest.raises(QueryError):
                connection.query("SELECT pg_sleep(60)")
    assert settles(sharing, before, PATIENCE)
    with served(cluster, *FRONT), recovered(cluster) as connection:
        assert_shares([connection])
