# SPDX-License-Identifier: MIT
"""Memory pressure: a control group whose limit is just above what the run cannot do without, a hog that takes
the rest of it again and again, and a swap device.
"""

import contextlib
import errno
import mmap
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptshare.demo import files, signals
from ptshare.demo.errors import CannotRunError
from ptshare.syscalls import PAGE

__all__ = ["Group", "group", "hog", "swap"]

_SWAP_BYTES = 96 << 20
#: What the processes may take beside what they have at their start: copies of Python's pages, children.
_PROCESS_BYTES = 6 << 20
#: What the hog leaves for the page cache, and for processes that are just being made.
_LEFT_BYTES = 24 << 20
_HOG_BYTES = 24 << 20


class Group:
    """A control group with a memory limit.

    :param path: its directory
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fixed_bytes(self) -> int:
        """Memory of the group that reclaim cannot take, were there no swap."""
        with open(self.path / "memory.stat") as file:
            stat = dict(line.split() for line in file)
        return sum(int(stat[name]) for name in ("anon", "shmem", "kernel"))

    def limit(self, processes: int, in_memory: int) -> int:
        """Set the limit.

        :param processes: that will be in it
        :param in_memory: bytes of files in memory that may yet come
        :returns: bytes
        """
        limit = self.fixed_bytes() + processes * _PROCESS_BYTES + in_memory + _HOG_BYTES + _LEFT_BYTES
        (self.path / "memory.max").write_text(str(limit))
        return limit

    def kills(self) -> int:
        """How many processes the kernel has killed because the limit left it no choice."""
        events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
        return int(events["oom_kill"])


@contextmanager
def group(name: str) -> Iterator[Group]:
    """A control group, with this process in it.

    :raises CannotRunError: there can be none
    """
    root = _hierarchy()
    try:
        with open("/proc/self/cgroup") as file:
            home = next(line[3:].strip() for line in file if line.startswith("0::"))
        controllers = (root / "cgroup.subtree_control").read_text().split()
        if "memory" not in controllers:
            raise CannotRunError("the memory controller is not handed to control groups")
        path = root / name
        path.mkdir()
    except (OSError, StopIteration) as error:
        raise CannotRunError(f"no control group can be made: {error}") from None
    try:
        (path / "cgroup.procs").write_text(str(os.getpid()))
        yield Group(path)
    finally:
        with signals.uninterrupted():
            (root / home.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
            _remove(path)


def _hierarchy() -> Path:
    """Where the control groups are."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            return Path(left.split()[4])
    raise CannotRunError("control groups (version 2) are not mounted")


def _remove(path: Path) -> None:
    """Remove a group; who has just died may be in it for a moment."""
    deadline = time.monotonic() + 5
    while True:
        try:
            path.rmdir()
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def hog(group: Group, limit: int, seed: str) -> int:
    """Start a process that takes what the limit leaves, and gives it back, again and again.

    :param limit: of the group, bytes
    :returns: its number
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        signals.reset()
        # If anybody must go, it is this one.
        Path("/proc/self/oom_score_adj").write_text("1000")
        _take_and_give(group, limit, random.Random(seed))
    finally:
        os._exit(1)


def _take_and_give(group: Group, limit: int, numbers: random.Random) -> None:
    parent = os.getppid()
    space = mmap.mmap(-1, limit, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page = bytes(range(256)) * (PAGE // 256)
    taken = 0
    while os.getppid() == parent:
        room = limit - _LEFT_BYTES - (group.fixed_bytes() - taken)
        wanted = max(0, int(room * numbers.choice((0.5, 0.8, 1.0)))) & -PAGE
        if wanted < taken:
            space.madvise(mmap.MADV_DONTNEED, wanted, taken - wanted)
        for at in range(taken, wanted, PAGE):
            space[at : at + PAGE] = page
            if at % (1 << 20) == 0 and limit - group.fixed_bytes() < _LEFT_BYTES // 2:
                wanted = at + PAGE
                break
        taken = wanted
        time.sleep(numbers.choice((0.3, 1.0)))


@contextmanager
def swap(scratch: Path) -> Iterator[str]:
    """What there is to swap to; if there is nothing, a device of our own.

    :returns: what it is, for people
    :raises CannotRunError: there can be none
    """
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        yield "the machine's"
        return
    image = scratch / "swap"
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _SWAP_BYTES)
    device = ""
    try:
        files.command(["mkswap", str(image)])
        with signals.uninterrupted():
            device = files.command(["losetup", "-f", "--show", str(image)]).strip()
        files.command(["swapon", device])
        yield f"{_SWAP_BYTES >> 20} MiB"
    finally:
        with signals.uninterrupted():
            if device:
                with contextlib.suppress(CannotRunError):
                    files.command(["swapoff", device])
                files.command(["losetup", "-d", device])
            image.unlink()
