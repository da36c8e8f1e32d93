# SPDX-License-Identifier: MIT
"""``ptshare demo`` on the patched kernel, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptshare import abi, counters

GRANULE = 2 << 20
DEMO = [sys.executable, "-c", "import sys; from ptshare.cli import main; sys.exit(main())", "demo"]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No mount, loop device, scratch file or shared table is left."""
    before = (traces(), counters.sharing_counters())
    yield
    deadline = time.monotonic() + 10
    while (traces(), counters.sharing_counters()) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (traces(), counters.sharing_counters()) == before


def traces() -> tuple[str, list[Path], list[Path]]:
    loops = [path for path in Path("/sys/block").glob("loop*") if (path / "loop/backing_file").exists()]
    scratch = list(Path(tempfile.gettempdir()).glob("ptshare-demo-*"))
    return Path("/proc/self/mountinfo").read_text(), loops, scratch


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *options], capture_output=True, text=True)


def results(*options: str) -> Any:
    run = demo("--json", *options)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


@pytest.mark.guest_timeout(600)
def test_the_default_demo() -> None:
    """The bars: 64 processes x 1 GiB, every page touched, at least 30 times less; faults at most one a
    granule.
    """
    start = time.monotonic()
    data = results()
    seconds = time.monotonic() - start
    print(json.dumps(data, indent=2), f"{seconds:.0f} s")
    assert (data["processes"], data["bytes"], data["granule"]) == (64, 1 << 30, GRANULE)
    assert data["kernel"] == os.uname().release
    assert [(run["filesystem"], run["method"]) for run in data["runs"]] == [
        ("ext4", "ordinary"),
        ("ext4", "shared"),
        ("tmpfs", "ordinary"),
        ("tmpfs", "shared"),
    ]
    for run in data["runs"][::2]:
        assert run["page_tables_kib"] >= 64 * 2048
    assert data["ratio"]["page_tables"] >= 30
    assert data["ratio"]["minor_faults"] >= 30
    assert data["protect"]["processes_affected"] == 63
    assert data["proven"] is True


def test_a_small_one_for_people() -> None:
    run = demo("--processes", "6", "--size", "100000001")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert "5 of the 5 others lost write access" in run.stdout
    assert "3 processes killed with SIGKILL" in run.stdout
    assert run.stdout.endswith("Proven by tables and faults: the page tables were shared.\n")
    assert "\033" not in run.stdout


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / "own"
    content = os.urandom(1 << 20) * 70 + b"tail"
    own.write_bytes(content)
    own.chmod(0o400)
    data = results("--processes", "4", "--file", str(own))
    assert data["bytes"] == len(content)
    assert data["protect"] is None
    assert data["proven"] is True
    assert {run["filesystem"] for run in data["runs"]} == {"tmpfs"}
    assert own.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "100G"], "100 GiB need about"),
        (["--size", "1M"], "1 MiB are too few"),
        (["--file", "/none"], "--file /none cannot be read: No such file or directory"),
        (["--file", "/dev/null"], "--file /dev/null is no regular file"),
    ],
)
def test_what_cannot_be_done_is_one_line(options: list[str], words: str) -> None:
    run = demo(*options)
    assert run.returncode == 2
    assert run.stdout == ""
    assert words in run.stderr
    assert run.stderr.count("\n") == 1


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    run = demo("--file", str(tmp_path / "empty"))
    assert run.returncode == 2
    assert "is empty: there is nothing to map" in run.stderr


def test_switched_off() -> None:
    switch = Path(abi.SYSFS, "enabled")
    switch.write_text("0")
    try:
        run = demo()
    finally:
        switch.write_text("1")
    assert run.returncode == 2
    assert "switched off" in run.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(number: signal.Signals, status: int) -> None:
    process = subprocess.Popen(
        [*DEMO, "--size", "128M", "--processes", "8"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout
    while (
        b"ordinary" not in process.stdout.readline()
    ):  # the first run is done: mounts, loop, the second begins
        assert process.poll() is None
    os.killpg(process.pid, number)
    process.communicate()
    assert process.returncode == status
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
