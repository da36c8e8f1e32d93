# SPDX-License-Identifier: MIT
"""``ptshare stress`` on the patched kernel: what is made wrong from outside is found."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import calls
import pytest
from calls import GRANULE, PAGE, RW, SHARED_PT, R
from stressing import STRESS, nothing_left

from ptshare import abi

pytestmark = pytest.mark.guest_timeout(400)


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


@contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*STRESS, "--seconds", "120", "--seed", "2", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


@contextmanager
def memfd_of(process: subprocess.Popen[str], role: str) -> Iterator[int]:
    """A descriptor of the run's memfd of a role, when the run is well under way."""
    deadline = time.monotonic() + 200
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 13:  # 12 and the hog
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(3)
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        if f"ptshare-stress-{role}" in os.readlink(link):
            fd = os.open(link, os.O_RDWR)
            try:
                yield fd
            finally:
                os.close(fd)
            return
    raise AssertionError(f"no memfd for {role}")


def failure(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, out + err
    assert "WRONG, with seed 2" in err
    assert "Nothing is wrong" not in out
    return err


def test_a_foreign_write_through_a_shared_table_is_found() -> None:
    with running() as process:
        with memfd_of(process, "pages") as fd, calls.mapped(4 * GRANULE, RW, SHARED_PT, fd) as at:
            for granule in range(4):
                for page in range(8):
                    calls.poke(at + granule * GRANULE + page * PAGE + 5, 0xAA)
        words = failure(process)
    assert "no page of a stress run" in words or "was killed between" in words or "wrong checksum" in words


def test_a_wrong_right_is_found() -> None:
    """Another process of the class changes the protection, and tells nobody."""
    with running() as process:
        with memfd_of(process, "guard") as fd, calls.mapped(2 * GRANULE, RW, SHARED_PT, fd) as at:
            calls.mprotect(at, 2 * GRANULE, R)
        words = failure(process)
    # SIGSEGV: it was a store of the process's own that was refused.
    found = ("could not be written", "could not be read", "was read", "maps shows", "SIGSEGV")
    assert any(each in words for each in found), words


def test_a_leak_is_found() -> None:
    """A guest that was not there before stays when all processes are gone."""
    with running("--seconds", "12") as process, calls.memfd(GRANULE) as fd:
        with memfd_of(process, "pages"):
            pass  # it has looked at the counters by now
        with calls.mapped(GRANULE, RW, SHARED_PT, fd):
            words = failure(process)
    assert f"a leak: {abi.SYSFS} was" in words


def test_switched_off() -> None:
    switch = Path(abi.SYSFS, "enabled")
    switch.write_text("0")
    try:
        run = subprocess.run(STRESS, capture_output=True, text=True)
    finally:
        switch.write_text("1")
    assert run.returncode == 2
    assert "switched off" in run.stderr
    assert run.stderr.count("\n") == 1
