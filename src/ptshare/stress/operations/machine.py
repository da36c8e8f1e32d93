# SPDX-License-Identifier: MIT
"""What other programs and the administrator of a machine do meanwhile."""

import contextlib
import errno
import os

from ptshare.stress.operations import operation
from ptshare.stress.sequence import Draw
from ptshare.stress.worker import Worker

#: What reading about a process that just ended fails with.
_GONE = (errno.ENOENT, errno.ESRCH, errno.EIO)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _other(worker: Worker, draw: Draw) -> int:
    """Another process of the run, or this one."""
    pids = [pid for pid in worker.control.pids if pid]
    return draw.choice(pids) if pids else os.getpid()


@operation("machine.drop-caches", 0.3, "root")
def drop_caches(worker: Worker, draw: Draw) -> bool | None:
    _write("/proc/sys/vm/drop_caches", "1")
    return None


@operation("machine.compact", 0.2, "root")
def compact(worker: Worker, draw: Draw) -> bool | None:
    """Pages are migrated."""
    _write("/proc/sys/vm/compact_memory", "1")
    return None


@operation("machine.reclaim", 4, "reclaim")
def reclaim(worker: Worker, draw: Draw) -> bool | None:
    """The control group of the run is to give memory back."""
    size = draw.choice((64, 64, 256, 256, 1024, 4096))
    worker.note(more=size)
    try:
        _write(f"{worker.setup.cgroup}/memory.reclaim", f"{size}K")
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EINTR):
            raise
    return None


@operation("look.proc", 6)
def look(worker: Worker, draw: Draw) -> bool | None:
    """Read about a process while it works."""
    pid = _other(worker, draw)
    name = draw.choice(("maps", "smaps", "smaps_rollup", "status", "numa_maps"))
    worker.note(more=pid)
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            while file.read(1 << 16):
                pass
    except OSError as error:
        # Not every kernel has all of them, nor lets everybody look.
        if error.errno not in (*_GONE, errno.EACCES, errno.EPERM):
            raise
    return None


@operation("look.pagemap", 5)
def pagemap(worker: Worker, draw: Draw) -> bool | None:
    """Of a mapping of another process."""
    pid = _other(worker, draw)
    worker.note(more=pid)
    try:
        with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
            lines = [line for line in file.read(1 << 16).splitlines() if b"ptshare-stress" in line]
        if not lines:
            return False
        start, end = (int(number, 16) for number in draw.choice(lines).split()[0].split(b"-"))
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
            file.seek(start // 4096 * 8)
            file.read(min((end - start) // 4096 * 8, 1 << 15))
    except OSError as error:
        if error.errno not in (*_GONE, errno.EACCES, errno.EPERM):
            raise
    return None


@operation("look.clear-refs", 2)
def clear_refs(worker: Worker, draw: Draw) -> bool | None:
    """Clear referenced and soft-dirty bits of a process's own tables."""
    pid = _other(worker, draw)
    worker.note(more=pid)
    with contextlib.suppress(ProcessLookupError, FileNotFoundError, PermissionError):
        try:
            _write(f"/proc/{pid}/clear_refs", draw.choice("1345"))
        except OSError as error:
            if error.errno != errno.EINVAL:  # no soft-dirty bits in this kernel
                raise
    return None
