# SPDX-License-Identifier: MIT
"""Whole runs with ordinary page tables, which any kernel has: the checks raise no false alarm, and do find
what is wrong.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ptshare.stress import content
from ptshare.syscalls import PAGE

STRESS = [sys.executable, "-c", "import sys; from ptshare.cli import main; sys.exit(main())", "stress"]
ORDINARY = ["--ordinary", "--unprivileged"]


def file_of(pid: int) -> str:
    """The memfd whose pages have versions, when half of the pages that are used most have been written."""
    pages = [granule * 512 + page for granule in range(3) for page in range(8)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            # Descriptors come and go meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if "ptshare-stress-pages" not in os.readlink(link):
                    continue
                with link.open("rb") as file:
                    written = sum(any(os.pread(file.fileno(), 32, page * PAGE)) for page in pages)
                    if written >= len(pages) // 2:
                        return str(link)
        time.sleep(0.05)
    raise AssertionError("nothing is written")


def test_a_short_run(tmp_path: Path) -> None:
    # No semaphores (sem.*): other programs make some.
    before = sorted(Path("/dev/shm").glob("[!s]*"))
    run = subprocess.run(
        [*STRESS, *ORDINARY, "--seconds", "4", "--seed", "11", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads(run.stdout)
    assert results["failure"] is None
    assert results["seed"] == 11
    operations = results["operations"]
    for name in (
        "read.load",
        "write.store",
        "watch.pages",
        "punch.madvise",
        "truncate",
        "attach.anywhere",
        "detach.part",
        "mremap.move",
        "process.fork",
        "storm.write",
        "sync.msync",
    ):
        assert operations[name] > 0, name
    assert operations["protect.mprotect"] == operations["machine.drop-caches"] == 0
    assert results["operations_total"] == sum(operations.values())
    assert results["pages_verified"] > 100
    assert results["killed"] > 0
    assert list(tmp_path.iterdir()) == []
    assert sorted(Path("/dev/shm").glob("[!s]*")) == before


def spoil(descriptor: str) -> None:
    """Overwrite some pages."""
    fd = os.open(descriptor, os.O_RDWR)
    for granule in range(4):
        for page in range(8):
            os.pwrite(fd, b"spoilt" * 100, (granule * 512 + page) * PAGE)
    os.close(fd)


def swap_pages(descriptor: str) -> None:
    """Each page holds what another one should."""
    fd = os.open(descriptor, os.O_RDWR)
    for page in range(2048):
        os.pwrite(fd, os.pread(fd, PAGE, (page + 1) % 2048 * PAGE) or b"", page * PAGE)
    os.close(fd)


def cut(descriptor: str) -> None:
    os.truncate(descriptor, 0)


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (spoil, "no page of a stress run: 73706f696c74"),
        (swap_pages, "must hold|was seen|was killed|written like|beyond the end"),
        # Who writes behind the new end makes zeros of what is before.
        (cut, "SIGBUS|Bad address|must hold|was seen|was killed|cannot be written|was refused|nobody cuts"),
    ],
)
def test_what_is_wrong_is_found(do: Callable[[str], None], words: str) -> None:
    """From outside, something is done to a file that nobody in the run has done."""
    with subprocess.Popen(
        [*STRESS, *ORDINARY, "--seconds", "60", "--seed", "12"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        do(file_of(process.pid))
        out, err = process.communicate(timeout=50)
    assert process.returncode == 1, out + err
    assert "WRONG, with seed 12" in err
    assert re.search(words, err)
    assert "the last operations of process" in err
    assert "Nothing is wrong" not in out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_leaves_nothing(number: signal.Signals, status: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*STRESS, *ORDINARY, "--seconds", "60"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    file_of(process.pid)
    os.killpg(process.pid, number)
    assert process.wait(30) == status
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_page_can_be_called() -> None:
    """On x86-64 its first byte returns."""
    assert content.content(0, 0, content.CONSTANT, 1)[0] == 0xC3
