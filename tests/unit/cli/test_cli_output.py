# SPDX-License-Identifier: MIT
"""Standard output that is full or that nobody reads, standard input that is closed, and Ctrl-C: a line at
most, and a status that means nothing else.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from made_up import database
from ptshare.audit import snapshot

PTSHARE = [sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())"]
RACES = [sys.executable, "-m", "ptshare.spec.races"]
SCRIPT = "file data 2G\nA mmap data 0 2M rw at 1T\nA read 1T\n"


@pytest.fixture
def printing(tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    """A command that prints."""
    (tmp_path / "script").write_text(SCRIPT)
    (tmp_path / "audit").write_text(snapshot.dump(database()))
    words: Sequence[str] = request.param
    return [word.replace("DIRECTORY", str(tmp_path)) for word in words]


COMMANDS = [
    [*PTSHARE, "--help"],
    [*PTSHARE, "plan", "--help"],
    [*PTSHARE, "plan", "--size", "1G", "--processes", "2"],
    [*PTSHARE, "plan", "--size", "1G", "--processes", "2", "--json"],
    [*PTSHARE, "plan", "--from-audit", "DIRECTORY/audit"],
    [*PTSHARE, "audit", "--from", "DIRECTORY/audit"],
    [*PTSHARE, "audit", "--from", "DIRECTORY/audit", "--json"],
    [*PTSHARE, "audit", "--from", "DIRECTORY/audit", "--csv", "--fail-above", "1T"],
    [*PTSHARE, "audit", "--from", "DIRECTORY/audit", "--prometheus", "-"],
    [*PTSHARE, "explain", "--script", "DIRECTORY/script", "--model"],
    [*PTSHARE, "explain", "--script", "DIRECTORY/script", "--model", "--json"],
    [*RACES],
    [*RACES, "--help"],
]


@pytest.mark.parametrize("printing", COMMANDS, indirect=True)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk(printing: list[str], unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            printing,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.endswith("cannot write to standard output: No space left on device")
    assert line.startswith(("ptshare", "python -m ptshare.spec.races: "))


@pytest.mark.parametrize("printing", COMMANDS, indirect=True)
def test_a_reader_that_goes(printing: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        result = subprocess.run(printing, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")


def test_a_full_disk_for_a_drawing(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(SCRIPT)
    command = [*PTSHARE, "explain", "--script", str(tmp_path / "script"), "--model", "--svg", "/dev/full"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "ptshare explain: /dev/full: No space left on device\n")


READERS = [
    ["audit", "--from", "-"],
    ["plan", "--from-audit", "-"],
    ["explain", "--model", "--script", "-"],
]


@pytest.mark.parametrize("reading", READERS)
def test_standard_input_that_is_closed(reading: list[str]) -> None:
    command = ["sh", "-c", '"$@" <&-', "sh", *PTSHARE, *reading]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "standard input" in line
    assert "closed" in line


@pytest.mark.parametrize("reading", READERS)
def test_interrupted_while_it_reads(reading: list[str]) -> None:
    with subprocess.Popen(
        ["env", "--default-signal", *PTSHARE, *reading],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # It is in read(0, ...), and no longer imports. proc_pid_syscall(5)
        deadline = time.monotonic() + 60
        while not Path(f"/proc/{process.pid}/syscall").read_text().startswith("0 0x0 "):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.wait(60) == 128 + signal.SIGINT
        assert process.stderr.read() == ""


@pytest.mark.parametrize("command", ["audit", "plan", "explain", "run", "bench", "lab"])
def test_the_usage_is_that_of_the_subcommand(command: str) -> None:
    more = {"run": ["true"], "lab": ["patch"]}.get(command, [])
    result = subprocess.run([*PTSHARE, command, "--bogus", *more], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(f"usage: ptshare {command} ")
    assert "unrecognized arguments: --bogus" in result.stderr
