# SPDX-License-Identifier: MIT
"""The demo's way to the guest: what is measured meanwhile, what is passed on, what is left when it is
interrupted.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ptshare.cli import main
from ptshare.lab import GuestResult, Image, LabError, Progress
from ptshare.lab import demo as lab_demo

IMAGE = Image(Path("/boot/bzImage"), "base", "6.12.1")


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[str], dict[str, Any]]]:
    """An image that is built at once and a guest whose demo prints ``{}``. Returns what it was asked to
    run.
    """
    asked = []

    def run_guest(argv: Sequence[str], **options: Any) -> GuestResult:
        asked.append((argv, options))
        options["stdout"](b"{}\n")
        return GuestResult(
            status=1, timed_out=False, reports=(), console=Path("/console"), seconds_to_boot=1.0
        )

    monkeypatch.setattr(lab_demo, "build_image", lambda progress: IMAGE)
    monkeypatch.setattr(lab_demo, "run_guest", run_guest)
    monkeypatch.setattr(lab_demo, "MEASURE", [sys.executable, "-c", "print('the problem')"])
    return asked


def test_the_guests_exit_status_and_output_are_passed_on(
    guest: list[tuple[Sequence[str], dict[str, Any]]], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["lab", "demo", "--processes", "8", "--size", "256M"]) == 1
    ((argv, options),) = guest
    assert argv[-5:] == ["demo", "--processes", "8", "--size", str(256 << 20)]
    assert (options["image"], options["memory"]) == (IMAGE, "4G")
    out = capfdbinary.readouterr().out
    assert out.startswith(b"the problem\n")
    assert out.endswith(b"{}\n")


def test_with_json_nothing_else_is_on_standard_output(
    guest: list[tuple[Sequence[str], dict[str, Any]]], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    main(["lab", "demo", "--json"])
    out, err = capfdbinary.readouterr()
    assert out == b"{}\n"
    assert b"the problem" in err
    assert "--json" in guest[0][0]


def test_the_guest_is_given_the_file_by_its_full_path(
    guest: list[tuple[Sequence[str], dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "own").open("wb") as file:
        file.truncate(64 << 20)
    monkeypatch.chdir(tmp_path)
    main(["lab", "demo", "--file", "own"])
    assert list(guest[0][0][-2:]) == ["--file", str(tmp_path / "own")]


def test_what_cannot_run_is_told_before_anything_is_built(
    guest: list[object], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for options, words in (
        (["--file", f"{tmp_path}/none"], f"--file {tmp_path}/none cannot be read: No such file or directory"),
        (["--size", "1M"], "1 MiB are too few to tell tables apart: map 64 MiB at least"),
    ):
        assert main(["lab", "demo", *options]) == 2
        assert capfd.readouterr() == ("", f"ptshare demo: {words}\n")
    assert guest == []


def test_the_guest_gets_the_memory_it_needs() -> None:
    assert lab_demo.guest_memory(1 << 30, 64) == "4G"
    assert lab_demo.guest_memory(8 << 30, 64) == "11G"


def test_it_is_measured_while_the_kernel_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def build(progress: Callable[[Progress], object]) -> Image:
        deadline = time.monotonic() + 60
        while "the problem\n" not in events:
            progress(Progress("build"))
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return IMAGE

    monkeypatch.setattr(lab_demo, "build_image", build)
    monkeypatch.setattr(lab_demo, "MEASURE", [sys.executable, "-c", "print('the problem')"])
    assert lab_demo.build_and_measure(lambda step: events.append(step.stage), events.append) == IMAGE
    assert events[0] == "build"


@pytest.mark.parametrize("error", [LabError("the compiler failed"), KeyboardInterrupt()])
def test_a_build_that_ends_early_ends_the_measuring(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    started: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    def build(progress: object) -> Image:
        raise error

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    monkeypatch.setattr(lab_demo, "build_image", build)
    monkeypatch.setattr(lab_demo, "MEASURE", [sys.executable, "-c", "import time; time.sleep(60)"])
    said: list[str] = []
    with pytest.raises(type(error)):
        lab_demo.build_and_measure(lambda _: None, said.append)
    assert said == []
    (process,) = started
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
