#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How many interrupts a change of page tables costs the other processors.

Run as root on a kernel with MAP_SHARED_PT::

    ptshare lab run --cpus 8 -- .venv/bin/python bench/flushes.py

Processes map a file of 8 MiB and have every page of it present. As many of them as there are processors
compute meanwhile, one on each; the others sleep. Counted are the TLB shootdowns that all processors receive
(line TLB of /proc/interrupts) while

- a cgroup's memory.reclaim takes the file's pages, per page taken;
- one process takes write access to all pages away by one mprotect(2), per call;
- an idle machine does nothing for as long, per second: what the other figures contain of noise.
"""

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptshare import syscalls
from ptshare.syscalls import GRANULE, MAP_SHARED, PAGE, RW, SHARED_PT, R

SIZE = 4 * GRANULE
CGROUPS = Path("/sys/fs/cgroup")
CALLS = 20


def interrupts() -> int:
    """TLB shootdowns received so far, all processors."""
    match = re.search(r"^\s*TLB:((?:\s+\d+)+)", Path("/proc/interrupts").read_text(), re.MULTILINE)
    assert match is not None
    return sum(int(number) for number in match[1].split())


def steals() -> int:
    """Pages reclaimed so far."""
    text = Path("/proc/vmstat").read_text()
    return sum(int(number) for number in re.findall(r"^pgsteal_(?:anon|file) (\d+)$", text, re.MULTILINE))


def touch(addr: int) -> None:
    syscalls.madvise(addr, SIZE, syscalls.MADV_POPULATE_READ)


def member(fd: int, flags: int, processor: int | None, ready: int) -> None:
    """Map, have all pages, and compute or sleep until killed."""
    addr = syscalls.mmap(SIZE, RW, flags, fd)
    touch(addr)
    if processor is not None:
        os.sched_setaffinity(0, {processor})
    os.write(ready, b"x")
    while True:
        if processor is None:
            signal.pause()


@contextmanager
def mappers(count: int, fd: int, flags: int) -> Iterator[None]:
    processors = os.cpu_count() or 1
    reader, writer = os.pipe()
    pids = []
    try:
        for number in range(count):
            pid = os.fork()
            if pid == 0:
                try:
                    member(fd, flags, number if number < processors else None, writer)
                finally:
                    os._exit(1)
            pids.append(pid)
        for _ in range(count):
            assert os.read(reader, 1)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def per_page(group: Path, fd: int, flags: int, count: int) -> float:
    # The group's process brings the pages in, so that they are the group's.
    pid = os.fork()
    if pid == 0:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(fd, SIZE, 0)
        os._exit(0)
    os.waitpid(pid, 0)
    with mappers(count, fd, flags):
        time.sleep(1)
        before, pages = interrupts(), steals()
        deadline = time.monotonic() + 120
        while steals() - pages < SIZE // PAGE // 2 and time.monotonic() < deadline:
            try:
                (group / "memory.reclaim").write_text(str(SIZE))
            except BlockingIOError:
                continue
        taken = steals() - pages
        return (interrupts() - before) / taken if taken else float("nan")


def per_call(fd: int, flags: int, count: int) -> float:
    addr = syscalls.mmap(SIZE, RW, flags, fd)
    touch(addr)
    with mappers(count - 1, fd, flags):
        time.sleep(1)
        received = 0
        for _ in range(CALLS):
            syscalls.mprotect(addr, SIZE, RW)
            syscalls.madvise(addr, SIZE, syscalls.MADV_POPULATE_WRITE)
            before = interrupts()
            syscalls.mprotect(addr, SIZE, R)
            received += interrupts() - before
        syscalls.mprotect(addr, SIZE, RW)
    syscalls.munmap(addr, SIZE)
    return received / CALLS


def main() -> None:
    if not (CGROUPS / "cgroup.controllers").exists():
        syscalls.checked(syscalls.libc.mount(b"cgroup2", str(CGROUPS).encode(), b"cgroup2", 0, None))
    (CGROUPS / "cgroup.subtree_control").write_text("+memory")
    group = CGROUPS / "flushes"
    group.mkdir(exist_ok=True)
    memory = os.memfd_create("flushes")  # nobody writes it back meanwhile
    os.ftruncate(memory, SIZE)
    print(f"{os.uname().release}, {os.cpu_count()} processors; TLB shootdowns received")
    print(f"{'mapping':14} {'processes':>9} {'per page reclaimed':>19} {'per mprotect':>13}")
    os.system("mkfs.ext4 -q -F /dev/vda && mkdir -p /tmp/flushes && mount /dev/vda /tmp/flushes")
    try:
        with tempfile.NamedTemporaryFile(dir="/tmp/flushes") as file:
            file.write(bytes(SIZE))
            file.flush()
            os.fsync(file.fileno())
            for name, flags in (("ordinary", MAP_SHARED), ("MAP_SHARED_PT", SHARED_PT)):
                for count in (1, 64):
                    page = per_page(group, file.fileno(), flags, count)
                    call = per_call(memory, flags, count)
                    print(f"{name:14} {count:9} {page:19.3f} {call:13.2f}", flush=True)
        start, before = time.monotonic(), interrupts()
        time.sleep(2)
        print(f"idle: {(interrupts() - before) / (time.monotonic() - start):.1f} a second")
    finally:
        os.system("umount /tmp/flushes")
        group.rmdir()


if __name__ == "__main__":
    main()
