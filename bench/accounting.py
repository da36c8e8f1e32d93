#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What people's tools say of 50 processes that share 1 GiB.

Run as root on a kernel with MAP_SHARED_PT; it wants top and smem, which Debian has, and psutil from PyPI::

    ptshare lab run -- .venv/bin/python bench/accounting.py

Each process maps the same memfd and has every page of it present: first by ordinary mappings, then by
MAP_SHARED_PT. The truth is printed too: the pages exist once.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptshare import syscalls
from ptshare.syscalls import GIB, MAP_SHARED, RW, SHARED_PT

PROCESSES = 50
NAME = "sharer"


def sharer(fd: int, flags: int, ready: int) -> None:
    Path("/proc/self/comm").write_text(NAME)
    addr = syscalls.mmap(GIB, RW, flags, fd)
    syscalls.madvise(addr, GIB, syscalls.MADV_POPULATE_READ)
    os.write(ready, b"x")
    signal.pause()


@contextmanager
def sharers(fd: int, flags: int) -> Iterator[list[int]]:
    reader, writer = os.pipe()
    pids: list[int] = []
    try:
        for _ in range(PROCESSES):
            pid = os.fork()
            if pid == 0:
                try:
                    sharer(fd, flags, writer)
                finally:
                    os._exit(1)
            pids.append(pid)
            assert os.read(reader, 1)
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def run(*command: str) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except FileNotFoundError:
        return [f"{command[0]} is not installed"]


def meminfo(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def show(title: str, lines: list[str]) -> None:
    print(f"\n{title}")
    for line in lines:
        print(f"    {line}".rstrip())


def psutil_lines(pids: list[int]) -> list[str]:
    try:
        import psutil
    except ImportError:
        return ["psutil is not installed"]
    infos = [psutil.Process(pid).memory_full_info() for pid in pids]
    one, mib = infos[0], 1 << 20
    return [
        f"one process: rss {one.rss / mib:.0f} MiB, shared {one.shared / mib:.0f} MiB, "
        f"pss {one.pss / mib:.1f} MiB, uss {one.uss / mib:.1f} MiB",
        f"all {len(infos)}: pss {sum(info.pss for info in infos) / mib:.0f} MiB, "
        f"uss {sum(info.uss for info in infos) / mib:.0f} MiB",
    ]


def main() -> None:
    fd = os.memfd_create("table")
    os.ftruncate(fd, GIB)
    addr = syscalls.mmap(GIB, RW, MAP_SHARED, fd)
    syscalls.madvise(addr, GIB, syscalls.MADV_POPULATE_WRITE)
    syscalls.munmap(addr, GIB)
    print(f"{os.uname().release}: {PROCESSES} processes, 1 GiB of memory that all have present")
    for name, flags in (("ordinary mappings", MAP_SHARED), ("MAP_SHARED_PT", SHARED_PT)):
        print(f"\n{name}\n{'=' * len(name)}")
        before = meminfo("PageTables")
        with sharers(fd, flags) as pids:
            head = [line for line in run("top", "-b", "-n", "1", "-w", "100") if line.strip()]
            first = next((n for n, line in enumerate(head) if "PID" in line), 0)
            found = [line for line in head[first + 1 :] if NAME in line][:2]
            show("top -b -n 1 (two of them)", head[first : first + 1] + found)
            show("smem -P, -k -t (two of them, and the total)", smem())
            show("psutil", psutil_lines(pids))
            grown = meminfo("PageTables") - before
            show(
                "/proc/meminfo",
                [f"Shmem {meminfo('Shmem') >> 10} MiB, PageTables +{grown / 1024:.1f} MiB"],
            )
        sys.stdout.flush()


def smem() -> list[str]:
    lines = run(
        "smem", "-P", f"^{sys.executable}|{sys.argv[0]}", "-k", "-t", "-c", "pid command swap uss pss rss"
    )
    return lines[:1] + lines[-4:]


if __name__ == "__main__":
    main()
