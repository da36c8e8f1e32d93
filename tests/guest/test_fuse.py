# SPDX-License-Identifier: MIT
"""A file system that goes by open files and has a ->close() for its mappings, as the contract tells of."""

import os
from collections.abc import Iterator
from pathlib import Path

import calls
import fuse
import pagebits
import pytest
from agents import Agents
from calls import GRANULE, MAP_SHARED, PAGE, RW, SHARED_PT, R
from files import opened
from fuse import Served
from settings import setting, write

from held import settles

MLOCK_ONFAULT = 1

#: The file: four granules.
SIZE = 4 * GRANULE


@pytest.fixture
def file_system(tmp_path: Path) -> Iterator[Served]:
    """Nothing of it is written back unasked: not every five seconds, nor because next to nothing of a file
    system that may be slow may be dirty.
    """
    with (
        setting(Path("/proc/sys/vm/dirty_writeback_centisecs"), "0"),
        fuse.served(tmp_path / "served", SIZE) as found,
    ):
        device = found.file.stat().st_dev
        limits = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}")
        for name, value in (("strict_limit", "0"), ("max_ratio", "100"), ("min_ratio", "50")):
            write(limits / name, value)
        yield found
        # Else others may have less for as long as it is remembered.
        write(limits / "min_ratio", "0")


def reads(file_system: Served) -> list[int]:
    """The open files with which they were asked for."""
    return [asked.handle for asked in file_system.asked() if asked.what == "read"]


def written(file_system: Served) -> set[int]:
    """Offsets."""
    return {asked.offset for asked in file_system.asked() if asked.what == "write"}


def test_pages_are_read_with_the_open_file_of_a_guest_that_lives(file_system: Served) -> None:
    """Of the one that came first, as long as it lives, whoever faults."""
    with Agents(2) as agents:
        fds = [agents.call("open", str(file_system.file), os.O_RDWR, members=[n])[0] for n in range(2)]
        at = [agents.do(n, "mmap", SIZE, RW, SHARED_PT, fds[n]) for n in range(2)]
        for page, member in ((0, 0), (GRANULE, 1)):
            assert agents.do(member, "peek", at[member] + page) == 0
        first = reads(file_system)
        assert len(set(first)) == 1
        agents.do(0, "munmap", at[0], SIZE)
        assert agents.do(1, "peek", at[1] + 2 * GRANULE) == 0
        later = set(reads(file_system)[len(first) :])
        assert len(later) == 1
        assert later != set(first)


@pytest.mark.parametrize("how", [MAP_SHARED, SHARED_PT], ids=["ordinary", "shared"])
def test_the_last_munmap_writes_back(file_system: Served, how: int) -> None:
    """Each munmap of an ordinary mapping does; of guests only the last one's."""
    with opened(file_system.file) as fd, Agents(2) as agents:
        at = [agents.do(n, "mmap", SIZE, RW, how, fd) for n in range(2)]
        for n in range(2):
            agents.do(n, "store", at[n] + n * GRANULE, PAGE)
        assert agents.do(1, "peek", at[1]) == 1
        pages = [pagebits.frame(at[1] + offset, agents.pid(1)) for offset in (0, GRANULE)]
        assert pagebits.flagged(pages, pagebits.DIRTY) == 2
        assert written(file_system) == set()
        agents.do(0, "munmap", at[0], SIZE)
        assert pagebits.flagged(pages, pagebits.DIRTY) == (2 if how == SHARED_PT else 0)
        agents.do(1, "munmap", at[1], SIZE)
        # The kernel does not wait for the server.
        assert settles(lambda: written(file_system), {0, GRANULE}, 20)


def test_locks_leave_no_more_vmas_than_anybody_may_have(file_system: Served) -> None:
    """The host's do not merge again, since they have a ->close(): who locks is refused in the end."""
    limit = 400
    with (
        opened(file_system.file) as fd,
        setting(Path("/proc/sys/vm/max_map_count"), str(limit)),
        calls.mapped(SIZE, R, SHARED_PT, fd) as at,
    ):
        assert calls.peek(at) == 0
        refused = 0
        for number in range(2 * limit):
            # Beyond the end, where nothing has to be brought in.
            with calls.mapped(GRANULE, R, SHARED_PT, fd, SIZE + 2 * number * GRANULE) as beyond:
                refused += calls.error_of(calls.mlock2, beyond, GRANULE, MLOCK_ONFAULT) == "ENOMEM"
        assert limit <= refused <= 2 * limit
        assert calls.peek(at + GRANULE) == 0
