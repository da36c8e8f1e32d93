#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Workers that read random rows of one array in a file, as a data loader's do.

Run as root on a kernel with MAP_SHARED_PT; it wants numpy::

    ptshare lab run --memory 6G -- .venv/bin/python bench/data_loader.py

First by numpy.memmap, then by ptshare.memmap, and so again. The file is in the page cache, and another
process has it mapped and has touched all of it. Then the workers, new processes (multiprocessing, spawn),
open the array at the same time and read every row once, in an order of their own, by batches. A worker's
faults are those from opening the array to its last row.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import ptshare
from ptshare import counters

ROW = 4096
BATCH = 256
MIB = 1 << 20


@dataclass(frozen=True)
class Worker:
    """What one worker found.

    :param faults: minor faults
    :param own_kib: growth of VmPTE, KiB
    :param first: seconds from opening the array to its first batch
    :param all: seconds to its last
    """

    faults: int
    own_kib: int
    first: float
    all: float
    checksum: int


@dataclass(frozen=True)
class Result:
    """What the workers of one method found.

    :param tables_kib: growth of PageTables from before the first worker opened the array, KiB; of several
        rounds the most
    """

    method: str
    workers: list[Worker]
    tables_kib: int


def opened(method: str, path: str) -> Any:
    return (np if method == "numpy" else ptshare).memmap(path, np.uint8, "r").reshape(-1, ROW)


def read(array: Callable[[], Any]) -> Worker:
    """Read all rows; what is counted begins with ``array()``."""
    faults, tables, start = (
        counters.minor_faults(),
        counters.process_tables().own_kib,
        time.perf_counter(),
    )
    rows = array()
    first = 0.0
    checksum = 0
    for at in range(0, len(rows), BATCH):
        batch = ORDER[at : at + BATCH]
        np.take(rows, batch, axis=0, out=OUT[: len(batch)], mode="clip")
        checksum += int(OUT[: len(batch), 0].sum())
        first = first or time.perf_counter() - start
    end = time.perf_counter()
    return Worker(
        counters.minor_faults() - faults,
        counters.process_tables().own_kib - tables,
        first,
        end - start,
        checksum,
    )


OUT = np.ones((BATCH, ROW), np.uint8)
ORDER = np.arange(0)


def work(pipe: Connection, method: str, path: str, seed: int) -> None:
    """A worker: makes ready, waits for the word, reads, and has the array mapped until it is told to end."""
    global ORDER
    # Code, heap and the output are there before it counts.
    ORDER = np.arange(BATCH)
    with tempfile.TemporaryFile() as file:
        file.write(bytes(BATCH * ROW))
        file.flush()
        read(lambda: np.memmap(file, np.uint8, "r").reshape(-1, ROW))
        read(lambda: ptshare.memmap(file, np.uint8, "r", page_tables="ordinary").reshape(-1, ROW))
    ORDER = np.arange(os.path.getsize(path) // ROW)
    np.random.default_rng(seed).shuffle(ORDER)
    pipe.send(None)
    pipe.recv()
    kept = []

    def array() -> Any:
        kept.append(opened(method, path))
        return kept[-1]

    pipe.send(read(array))
    pipe.recv()


def measure(method: str, path: str, workers: int) -> Result:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(workers)]
    # Reads each row; its tables are there for those that come.
    warm = opened(method, path)
    warm[:, 0].sum()
    processes = [
        context.Process(target=work, args=(there, method, path, seed))
        for seed, (_, there) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for here, there in pipes:
        there.close()
        here.recv()
    counters.fold_per_cpu()
    before = counters.page_tables_kib()
    for here, _ in pipes:
        here.send(None)
    found = [here.recv() for here, _ in pipes]
    counters.fold_per_cpu()
    growth = counters.page_tables_kib() - before
    for here, _ in pipes:
        here.send(None)
    for process, (here, _) in zip(processes, pipes, strict=True):
        process.join()
        here.close()
        if process.exitcode:
            raise SystemExit(f"a worker ended with {process.exitcode}")
    return Result(method, found, growth)


def main() -> None:
    parser = argparse.ArgumentParser(description="Workers that read random rows of one array.")
    parser.add_argument("--workers", type=int, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--mib", type=int, default=1024, metavar="N", help="the array; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    if not ptshare.probe().supported:
        sys.exit(f"page tables cannot be shared: {ptshare.probe().reason}")
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/array"
        with open(path, "wb") as file:
            for number in range(args.mib):
                file.write(bytes([number % 251]) * MIB)
        rounds = [
            [measure(method, path, args.workers) for method in ("numpy", "ptshare")]
            for _ in range(args.rounds)
        ]
    results = [
        Result(
            pair[0].method,
            [worker for result in pair for worker in result.workers],
            max(result.tables_kib for result in pair),
        )
        for pair in zip(*rounds, strict=True)
    ]
    (checksum,) = {worker.checksum for result in results for worker in result.workers}
    assert checksum == sum(number % 251 for number in range(args.mib)) * (MIB // ROW)
    if args.json:
        print(json.dumps({result.method: asdict(result) for result in results}))
        return
    print(f"{os.uname().release}: {args.workers} workers read {args.mib} MiB by rows of {ROW} bytes")
    print(f"{'':17}{'PageTables':>11}{'own tables':>12}{'minor faults':>14}{'first batch':>13}{'all':>9}")
    print(f"{'':17}{'KiB':>11}{'KiB/worker':>12}{'/worker':>14}{'ms':>13}{'s':>9}")
    median = statistics.median
    for result in results:
        them = result.workers
        print(
            f"{result.method + '.memmap':17}{result.tables_kib:>11,}"
            f"{median(worker.own_kib for worker in them):>12,.0f}"
            f"{median(worker.faults for worker in them):>14,.0f}"
            f"{median(worker.first for worker in them) * 1e3:>13,.1f}"
            f"{median(worker.all for worker in them):>9,.2f}"
        )
    ordinary, shared = (median(worker.faults for worker in result.workers) for result in results)
    print(f"faults of a worker: {ordinary / max(shared, 1):,.0f} times fewer")


if __name__ == "__main__":
    main()
