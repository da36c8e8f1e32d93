# SPDX-License-Identifier: MIT
"""The command ``ptshare demo``: options, exit status, what is printed where."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from demo_runs import GRANULE, ORDINARY, SHARED
from ptshare.cli import main
from ptshare.demo import session
from ptshare.demo.errors import CannotRunError, ProcessFailedError
from ptshare.demo.measure import Run
from ptshare.demo.report import Results
from ptshare.support import Support

OnRun = Callable[[Run, Run | None], None]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Path | None]]:
    """The demo may run, and what it measures is recorded. Returns what it is asked for."""
    asked = []

    def run(size: int, processes: int, file: Path | None, on_run: OnRun) -> Results:
        asked.append((size, processes, file))
        on_run(ORDINARY, None)
        on_run(SHARED, ORDINARY)
        return Results("6.12.1", GRANULE, (ORDINARY, SHARED), ())

    monkeypatch.setattr(session, "check", lambda size, *_: (Support(True, GRANULE, None), size))
    monkeypatch.setattr(session, "run", run)
    return asked


def test_a_kernel_without_the_feature_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "ptshare demo: page tables cannot be shared: this kernel does not have MAP_SHARED_PT"
    )
    assert err.count("\n") == 1


def test_defaults(measured: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    assert measured == [(1 << 30, 64, None)]
    out = capsys.readouterr().out
    assert "64 processes map 1 GiB" in out
    assert "ordinary" in out
    assert "51 times less page-table memory" in out
    assert "63 of the 63 others lost write access" in out
    assert "By arithmetic, not measured" in out
    assert out.endswith("Proven by tables and faults: the page tables were shared.\n")
    assert "\033" not in out


def test_options(measured: list[object]) -> None:
    assert main(["demo", "--size", "256M", "--processes", "8", "--file", "/data"]) == 0
    assert measured == [(256 << 20, 8, Path("/data"))]


@pytest.mark.usefixtures("measured")
def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["proven"] is True
    assert err == ""


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_proof_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    results = Results(
        "k", GRANULE, (ORDINARY, replace(SHARED, page_tables_kib=9000)), ("ext4: too many tables",)
    )
    monkeypatch.setattr(session, "run", lambda *_: results)
    assert main(["demo", *options]) == 1
    out = capsys.readouterr().out
    assert "ext4: too many tables" in out
    assert "Proven by" not in out


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("error", "status"),
    [(CannotRunError("no"), 2), (ProcessFailedError("no"), 1), (KeyboardInterrupt(), 130)],
)
def test_failures_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int
) -> None:
    def fail(*_: object) -> Results:
        raise error

    monkeypatch.setattr(session, "run", fail)
    assert main(["demo", "--json"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


@pytest.mark.usefixtures("measured")
def test_colour_where_a_terminal_is_at_the_other_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["demo"])
    assert "\033[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["demo"])
    assert "\033" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["--processes", "1"],
        ["--processes", "x"],
        ["--size", "-1"],
        ["--size", "big"],
        ["--processes", "9999"],
    ],
)
def test_bad_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", *options])
    assert caught.value.code == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Interrupted in the middle of a run: a flag of 0 in the place of MAP_SHARED_PT lets it start on this
    kernel.
    """
    own = tmp_path / "own"
    with own.open("wb") as file:
        file.truncate(64 << 20)
    program = f"""
import sys
from ptshare import abi
abi.MAP_SHARED_PT = 0
from ptshare.cli import main
sys.exit(main(["demo", "--processes", "9", "--file", {str(own)!r}]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while len(children.read_text().split()) < 9:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, number)
    assert process.wait(20) == status
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
