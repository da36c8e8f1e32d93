#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PostgreSQL with and without ``ptshare run``: page tables, time to connect, pgbench -S.

Debian's PostgreSQL 15 is fetched into the cache, for the guest alone, a guest is started, and there it runs::

    .venv/bin/python bench/postgres.py

A cluster of 1 GiB of shared_buffers, huge_pages=off, runs in turns without and with ``ptshare run``. Each
time pg_prewarm fills the buffers; then backends connect, and each reads all of a table that fills them. While
they are there as many more connect, and pgbench tells how long that takes. Then pgbench -S runs. Ratios are
of medians.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import ptshare
from ptshare import counters
from ptshare.lab import LabError, build_image, programs, run_guest
from ptshare.lab.programs.postgres import Cluster, Connection
from ptshare.lab.terminal import ProgressLine

#: Pages of 8 KiB: 950 MiB.
PAGES = 121_600
PAGE_TABLE_KIB = 4
SCAN = "SELECT count(*), sum(id) FROM filler"
FRONTS: dict[str, tuple[str, ...]] = {"ordinary": (), "shared": (*programs.RUN, "--")}


@dataclass(frozen=True)
class Run:
    """One server's life.

    :param tables: growth of PageTables by the backends' scans, KiB, and the tables that they share, which
        pg_prewarm has made before
    :param connect: milliseconds until as many more are connected, as pgbench says
    :param tps: transactions a second, as pgbench says
    """

    tables: int
    connect: float
    tps: float


def scan(connections: list[Connection]) -> int:
    """Have each backend read all of the table, at the same time; the page tables for that, KiB."""
    counters.fold_per_cpu()
    before = counters.page_tables_kib()
    for connection in connections:
        connection.send(SCAN)
    answers = {row for connection in connections for row in connection.result()}
    counters.fold_per_cpu()
    grown = counters.page_tables_kib() - before
    assert answers == {(str(PAGES), str(PAGES * (PAGES + 1) // 2))}
    held = counters.sharing_counters()
    assert held is not None
    return grown + held.tables * PAGE_TABLE_KIB


def pgbench(cluster: Cluster, what: str, *arguments: str) -> float:
    """A figure that pgbench -S says."""
    said = cluster.pgbench("-S", "-n", *arguments)
    match = re.search(rf"^{what} = ([\d.]+)", said, re.MULTILINE)
    assert match is not None, said
    return float(match[1])


def measure(cluster: Cluster, front: tuple[str, ...], args: argparse.Namespace) -> Run:
    cluster.start(*front)
    try:
        with cluster.connect() as connection:
            connection.query("SELECT pg_prewarm('filler')")
        with ExitStack() as stack:
            connections = [stack.enter_context(cluster.connect()) for _ in range(args.backends)]
            tables = scan(connections)
            connect = pgbench(cluster, "initial connection time", "-c", str(args.backends), "-t", "1")
        with cluster.connect() as connection:
            connection.query("SELECT pg_prewarm('pgbench_accounts'), pg_prewarm('pgbench_accounts_pkey')")
        clients = ("-c", str(args.clients), "-j", "2")
        return Run(tables, connect, pgbench(cluster, "tps", *clients, "-T", str(args.seconds)))
    finally:
        cluster.stop()


def in_guest() -> int:
    """On the host: get the programs, and run this in a guest; the exit status."""

    def to(stream: TextIO) -> Callable[[bytes], object]:
        def write(data: bytes) -> None:
            stream.write(data.decode(errors="replace"))
            stream.flush()

        return write

    try:
        programs.fetch(lambda text: print(text, file=sys.stderr))
        image = build_image(progress=ProgressLine())
        argv = [sys.executable, *sys.argv]
        result = run_guest(argv, image=image, memory="6G", stdout=to(sys.stdout), stderr=to(sys.stderr))
    except LabError as error:
        print(f"bench/postgres.py: {error}", file=sys.stderr)
        return 2
    if (complaint := result.complaint()) is not None:
        print(f"bench/postgres.py: {complaint}", file=sys.stderr)
    return result.exit_status


def main() -> None:
    parser = argparse.ArgumentParser(description="PostgreSQL with and without ptshare run.")
    parser.add_argument("--backends", type=int, default=50, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--clients", type=int, default=16, metavar="N", help="pgbench's; default: %(default)s"
    )
    parser.add_argument(
        "--seconds", type=int, default=12, metavar="N", help="pgbench's; default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    args = parser.parse_args()
    if not os.environ.get("PTSHARE_LAB"):
        sys.exit(in_guest())
    if not ptshare.probe().supported:
        sys.exit(f"page tables cannot be shared: {ptshare.probe().reason}")
    programs.prepare()
    found: dict[str, list[Run]] = {name: [] for name in FRONTS}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o755)
        cluster = Cluster(place)
        cluster.start()
        try:
            with cluster.connect() as connection:
                connection.query("CREATE EXTENSION pg_prewarm")
                cluster.make_filler(connection, PAGES)
            cluster.pgbench("-i", "-q", "-s", "5")
        finally:
            cluster.stop()
        for _ in range(args.rounds):
            for name, front in FRONTS.items():
                found[name].append(measure(cluster, front, args))
        cluster.remove()
    print(
        f"{os.uname().release}, PostgreSQL 15, shared_buffers 1 GiB: {args.backends} backends read 950 MiB "
        f"each; pgbench -S, {args.clients} clients, {args.seconds} s; median of {args.rounds}"
    )
    print(f"{'':10}{'PageTables':>12}{'connect':>10}{'pgbench -S':>12}")
    print(f"{'':10}{'KiB':>12}{'ms':>10}{'tps':>12}")
    rows = {}
    for name, runs in found.items():
        columns = zip(*((run.tables, run.connect, run.tps) for run in runs), strict=True)
        rows[name] = tables, connect, tps = [statistics.median(column) for column in columns]
        print(f"{name:10}{tables:>12,.0f}{connect:>10,.0f}{tps:>12,.0f}")
    ordinary, shared = rows["ordinary"], rows["shared"]
    print(f"page tables {ordinary[0] / shared[0]:.0f} times less, tps ratio {shared[2] / ordinary[2]:.2f}")
    ratios = [b.tps / a.tps for a, b in zip(found["ordinary"], found["shared"], strict=True)]
    print("tps ratios of the pairs: " + " ".join(f"{ratio:.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
