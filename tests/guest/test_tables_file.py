# SPDX-License-Identifier: MIT
"""/sys/kernel/debug/ptshare/tables itself: who may read it, and while all that it tells of changes.

What it says is in test_explain.py.
"""

import mmap
import os
import random
import re
import time
from contextlib import suppress
from pathlib import Path

import calls
import pytest
from calls import GIB, GRANULE, RW, SHARED_PT, R

from ptshare.explain import kernel

TABLES = Path("/sys/kernel/debug/ptshare/tables")
HEX, RIGHTS = r"0x[0-9a-f]+", "[r-][w-][x-]"
LINE = re.compile(
    rf"domain id=\d+ dev=[0-9a-f:]+ inode=\d+ asked={RIGHTS} may={RIGHTS} mdwe=[01] pgd={HEX}"
    rf"| table level=(p4d|pud|pmd|pte) offset={HEX} pfn={HEX} links=\d+"
    rf"| guest pid=\d+ start={HEX} end={HEX} offset={HEX} pgd={HEX}"
    rf"|  (own|link) level=(p4d|pud|pmd|pte) start={HEX} pfn={HEX}"
)


def test_only_root_can_read_it() -> None:
    assert TABLES.stat().st_mode & 0o7777 == 0o400
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            kernel.read()
        except kernel.KernelFileError as error:
            os._exit("only root can read" not in str(error))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def churn(fds: list[int], seed: int, end: float) -> None:
    """Map, touch, drop, unmap, fork and end, over and over."""
    chance = random.Random(seed)
    base = calls.free_area(4 * GIB)
    while time.monotonic() < end:
        fd, prot = chance.choice(fds), chance.choice([R, RW])
        length = chance.choice([GIB, 2 * GIB, 4 * GRANULE, 16 * GRANULE])
        at = calls.mmap(length, prot, SHARED_PT | calls.MAP_FIXED, fd, chance.randrange(8) * GRANULE, base)
        for _ in range(chance.randrange(1, 12)):
            calls.peek(at + chance.randrange(min(length, 32 * GRANULE)))
        match chance.randrange(4):
            case 0:
                calls.madvise(at, length, mmap.MADV_DONTNEED)
            case 1:
                calls.munmap(at + GRANULE, GRANULE)
                calls.peek(at)
            case 2 if not chance.randrange(4):
                calls.munmap(at, length)
        if not chance.randrange(4):
            pid = os.fork()
            if pid == 0:
                calls.peek(at)
                if chance.randrange(2):
                    os.kill(os.getpid(), 9)
                os._exit(0)
            os.waitpid(pid, 0)
        if not chance.randrange(16):
            with suppress(OSError):
                calls.munmap(base, 4 * GIB)


def read_over_and_over(step: int, end: float) -> None:
    """What is read is whole lines, none of them odd, in pieces of each size."""
    seen = set()
    while time.monotonic() < end:
        with TABLES.open("rb", buffering=0) as file:
            text = b""
            while piece := file.read(step):
                text += piece
        for line in text.decode().splitlines():
            assert LINE.fullmatch(line), line
            seen.add(line.split()[0])
    assert seen == {"domain", "table", "guest", "own", "link"}


@pytest.mark.guest_timeout(400)
def test_it_can_be_read_while_all_changes(tmpfs: Path) -> None:
    """Nobody crashes, waits for ever, or holds on to anything: the console and what is left tell."""
    end = time.monotonic() + 20
    fds = []
    for name in ("one", "two"):
        fds.append(os.open(tmpfs / name, os.O_RDWR | os.O_CREAT))
        os.truncate(fds[-1], 3 * GIB)
    pids = []
    for number in range(9):
        pid = os.fork()
        if pid == 0:
            try:
                if number < 6:
                    churn(fds, number, end)
                else:
                    read_over_and_over([1 << 20, 4096, 97][number - 6], end)
                os._exit(0)
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
        pids.append(pid)
    # Who is killed in the midst of it has its guests closed, perhaps by a reader.
    time.sleep(8)
    os.kill(pids[0], 9)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    for fd in fds:
        os.close(fd)
    assert codes == [-9] + [0] * 8
    assert TABLES.read_text() == ""
