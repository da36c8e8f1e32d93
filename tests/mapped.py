# SPDX-License-Identifier: MIT
"""Processes that have something mapped, for the audit to find."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ptshare import syscalls
from ptshare.syscalls import GRANULE, MAP_FIXED_NOREPLACE, MAP_SHARED, PAGE, RW, R

#: Multiples of a GiB where nothing else is.
ADDRESS = 1 << 44
#: madvise(2)
_NOHUGEPAGE = 15


@contextmanager
def children(*acts: Callable[[], object]) -> Iterator[list[int]]:
    """A process for each act, which does it and waits."""
    reader, writer = os.pipe()
    pids: list[int] = []
    try:
        for act in acts:
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(reader)
                    act()
                    os.write(writer, b"x")
                    signal.pause()
                finally:
                    os._exit(1)
            pids.append(pid)
        os.close(writer)
        writer = -1
        ready = b""
        while len(ready) < len(acts):
            part = os.read(reader, len(acts))
            assert part, "a child failed"
            ready += part
        yield pids
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


@contextmanager
def memory(size: int, name: str = "audited") -> Iterator[int]:
    """A memfd."""
    fd = os.memfd_create(name)
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


def mapped(
    fd: int,
    size: int,
    granules: range,
    offset: int = 0,
    address: int = ADDRESS,
    write: bool = True,
    flags: int = MAP_SHARED,
) -> None:
    """Map a file and touch a page of each of these granules of the mapping."""
    at = syscalls.mmap(size, RW if write else R, flags | MAP_FIXED_NOREPLACE, fd, offset, address)
    with contextlib.suppress(OSError):  # a kernel without transparent huge pages
        syscalls.madvise(at, size, _NOHUGEPAGE)
    for granule in granules:
        syscalls.madvise(at + granule * GRANULE, PAGE, syscalls.MADV_POPULATE_READ)
