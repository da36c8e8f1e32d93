#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How long the audit of a busy host takes, against the tools that there are, and whether it counts right.

On any machine; the kernel need not be patched::

    .venv/bin/python bench/audit.py

2,000 processes with 150 mappings each map one memfd of 128 MiB and have read all of it. Then, in turns:
``ptshare audit``; ``smem -m`` of Debian's package, which is fetched and unpacked in the cache, not
installed; and ``memory_maps()`` of psutil for every process. Neither of the two tells of page tables. All
see the same processes.
"""

import argparse
import json
import mmap
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptshare.lab import packages
from ptshare.syscalls import GRANULE, MADV_POPULATE_READ, MAP_FIXED, MAP_SHARED, R, madvise
from ptshare.syscalls import mmap as map_at

#: Where nothing else is, so that granules of the file are tables of the process.
ADDRESS = 1 << 44
SIZE = 128 << 20

PSUTIL = """
import psutil
for process in psutil.process_iter():
    try:
        process.memory_maps()
    except (psutil.Error, OSError):
        pass
"""


def mappings() -> int:
    """How many mappings this process has."""
    with open("/proc/self/maps", "rb") as maps:
        return len(maps.read().splitlines())


@contextmanager
def processes(count: int, vmas: int) -> Iterator[int]:
    """Processes that have the memfd mapped and read.

    :returns: inode of the memfd
    """
    fd = os.memfd_create("audited")
    os.ftruncate(fd, SIZE)
    # Written, not mapped: what this process has had mapped would count as memory of those that it starts.
    for _ in range(SIZE >> 20):
        os.write(fd, b"x" * (1 << 20))
    kept: list[mmap.mmap] = []
    while mappings() < vmas - 1:
        # Of alternating kind, so that they do not become one.
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if len(kept) % 2 else 0)
        kept.append(mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=prot))
    reader, writer = os.pipe()
    started: list[int] = []
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                try:
                    map_at(SIZE, R, MAP_SHARED | MAP_FIXED, fd, 0, ADDRESS)
                    madvise(ADDRESS, SIZE, MADV_POPULATE_READ)
                    os.write(writer, b"x")
                    signal.pause()
                finally:
                    os._exit(1)
            started.append(pid)
        ready = 0
        while ready < count:
            ready += len(os.read(reader, 4096))
        yield os.fstat(fd).st_ino
    finally:
        for pid in started:
            os.kill(pid, signal.SIGKILL)
        for pid in started:
            os.waitpid(pid, 0)


def timed(*command: str, environment: dict[str, str] | None = None) -> tuple[float, int]:
    """Seconds, and peak memory in bytes, of a command that must succeed."""
    with tempfile.TemporaryFile() as out:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=out, env={**os.environ, **(environment or {})})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 3):  # 3: ptshare audit could not read every process
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, usage.ru_maxrss << 10


def audit(*options: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ptshare")), "audit", *options]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--processes", type=int, default=2000)
    parser.add_argument("--vmas", type=int, default=150, help="mappings of each")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    smem = packages.fetch("smem", say=print) / "usr/bin/smem"
    others = {"smem -m": ["/usr/bin/python3", str(smem), "-m"], "psutil": [sys.executable, "-c", PSUTIL]}
    seconds: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="ptshare-bench-") as scratch,
        processes(options.processes, options.vmas) as inode,
    ):
        saved = Path(scratch, "audit.json")
        peak = 0
        for _ in range(options.rounds):
            took, memory = timed(*audit("--save", str(saved)))
            seconds.setdefault("ptshare audit", []).append(took)
            peak = max(peak, memory)
            one = [timed(*audit("--pid", str(os.getpid())))[0] for _ in range(5)]
            seconds.setdefault("ptshare audit --pid", []).extend(one)
            for name, command in others.items():
                seconds.setdefault(name, []).append(timed(*command)[0])
        found = json.loads(saved.read_text())
    least = {name: min(values) for name, values in seconds.items()}
    (item,) = (item for item in found["objects"] if item["inode"] == inode and item["kind"] == "memfd")
    host = found["host"]
    figures = {
        "kernel": platform.release(),
        "processes": options.processes,
        "mappings": options.vmas,
        "seconds": least,
        "times_quicker": {name: least[name] / least["ptshare audit"] for name in others},
        "peak_bytes": peak,
        "tables": item["tables"],
        "tables_expected": options.processes * SIZE // GRANULE,
        "explained": host["explained_bytes"] / host["page_tables_bytes"],
    }
    print(f"Linux {figures['kernel']}: {options.processes} processes with {options.vmas} mappings each")
    for name, value in least.items():
        print(f"{name:<20}{value:9.3f} s")
    for name, ratio in figures["times_quicker"].items():
        print(f"ptshare audit is {ratio:.1f} times quicker than {name}")
    print(f"peak memory {peak / (1 << 20):.1f} MiB")
    print(f"tables of the memfd {item['tables']}, expected {figures['tables_expected']}")
    print(
        f"PageTables explained {figures['explained']:.2%}, counted by the kernel's marks "
        f"{host['page_tables_bytes'] / host['counted_bytes']:.2%}"
        if host["counted_bytes"]
        else ""
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
