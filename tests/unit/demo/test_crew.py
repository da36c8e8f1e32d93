# SPDX-License-Identifier: MIT
"""Processes that do what they are told, and what is left when they do not."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from descriptors import descriptors
from ptshare.demo.crew import Crew
from ptshare.demo.errors import ProcessFailedError


class Worker:
    """Does simple things."""

    def pid(self) -> int:
        return os.getpid()

    def add(self, left: int, right: int) -> int:
        return left + right

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self) -> None:
        raise ValueError("no such thing")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def descriptors(self) -> int:
        return len(descriptors())


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No child and no descriptor is left."""
    before = descriptors()
    yield
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_each_answers_from_a_process_of_its_own() -> None:
    with Crew(3, Worker) as crew:
        pids = crew.call("pid")
        assert len({os.getpid(), *pids}) == 4
        assert crew.call("pid", members=[2, 0]) == [pids[2], pids[0]]
        assert crew.call("add", 2, 3, members=[1]) == [5]
        assert crew.call("add", 2, 3, at_once=1) == [5, 5, 5]


def test_no_more_at_once_than_said() -> None:
    with Crew(4, Worker) as crew:
        start = time.monotonic()
        crew.call("sleep", 0.1, at_once=2)
        assert time.monotonic() - start >= 0.2


def test_killed_members_are_gone_and_the_others_go_on() -> None:
    with Crew(4, Worker) as crew:
        pids = crew.call("pid")
        crew.kill(crew.members[::2])
        assert crew.members == [1, 3]
        assert not Path(f"/proc/{pids[0]}").exists()
        assert crew.call("pid") == [pids[1], pids[3]]


def test_a_child_holds_no_end_of_another_ones_pipes() -> None:
    with Crew(5, Worker) as crew:
        counts = crew.call("descriptors")
    assert len(set(counts)) == 1


def test_a_death_is_told_and_ends_the_crew() -> None:
    with (
        pytest.raises(ProcessFailedError, match=r"process \d+ died in 'die': SIGKILL"),
        Crew(2, Worker) as crew,
    ):
        crew.call("die", members=[1])


def test_a_death_between_two_calls_is_told() -> None:
    with Crew(2, Worker) as crew:
        os.kill(crew.call("pid")[0], signal.SIGKILL)
        with pytest.raises(ProcessFailedError, match="died in 'pid': SIGKILL"):
            crew.call("pid")


def test_an_exception_is_told() -> None:
    with pytest.raises(ProcessFailedError, match="ValueError: no such thing"), Crew(2, Worker) as crew:
        crew.call("fail")


def test_a_worker_that_cannot_be_made_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> object:
        raise RuntimeError("no worker today")

    with pytest.raises(ProcessFailedError, match="exit status 1"), Crew(1, fail) as crew:
        crew.call("pid")


def test_no_answer_in_time_is_told() -> None:
    with (
        pytest.raises(ProcessFailedError, match="no process answered 'sleep' within 0 s"),
        Crew(2, Worker) as crew,
    ):
        crew.call("sleep", 60, seconds=0.1)


def test_the_children_end_with_their_parent() -> None:
    """By the end of their pipes, so also where the parent had no time to end them."""
    program = """
        import os, signal
        from ptshare.demo.crew import Crew

        class Worker:
            def pid(self):
                return os.getpid()

        crew = Crew(3, Worker).__enter__()
        print(*crew.call("pid"), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert run.returncode == -signal.SIGKILL
    pids = run.stdout.split()
    assert len(pids) == 3
    deadline = time.monotonic() + 60
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it has ended before, or since it was opened
        return False
