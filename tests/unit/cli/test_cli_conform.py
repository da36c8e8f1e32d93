# SPDX-License-Identifier: MIT
"""``ptshare conform``, with the model in the kernel's place."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelled import Modelled
from ptshare import lab
from ptshare.cli import main
from ptshare.conform import link
from ptshare.conform.calls import Program, Step
from ptshare.conform.expected import Model
from ptshare.spec.state import Outcome


class NeverRefused(Model):
    """munmap never fails."""

    def _do_munmap(self, step: Step) -> Outcome:
        return super()._do_munmap(step)._replace(errno=0)


class Dies(Modelled):
    """A guest in which the kernel reports something."""

    def run(self, program: Program) -> dict[str, object]:
        raise link.KernelReportError("the kernel reported: BUG", program)


Instead = Callable[[Modelled], None]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Instead:
    """Has something else run the programs."""

    def put(kernel: Modelled) -> None:
        monkeypatch.setattr(lab, "build_image", lambda *args, **named: SimpleNamespace())
        monkeypatch.setattr(link, "LabKernel", lambda image: nullcontext(kernel))

    return put


def test_no_difference(instead: Instead, capsys: pytest.CaptureFixture[str]) -> None:
    instead(Modelled())
    assert main(["conform", "--seconds", "0", "--seed", "5"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "conform: --seed 5\n" in printed.err
    assert "seed 5: no divergence" in printed.err
    assert "a minute, seeds 5 to 5" in printed.err


def test_another_seed_each_time_is_printed(instead: Instead, capsys: pytest.CaptureFixture[str]) -> None:
    instead(Modelled())
    for _ in range(2):
        assert main(["conform", "--seconds", "0"]) == 0
    first, second = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("conform: --seed ")
    ]
    assert first != second


@pytest.mark.parametrize("short", [True, False])
def test_a_difference(
    instead: Instead, capsys: pytest.CaptureFixture[str], tmp_path: Path, short: bool
) -> None:
    instead(Modelled(NeverRefused))
    path = tmp_path / "found.py"
    options = [] if short else ["--as-found"]
    assert main(["conform", "--seconds", "60", "--seed", "1", "--script", str(path), *options]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "errno: expected " in printed.err
    steps = printed.err.count("conform:     ")
    assert (steps <= 3) is short
    assert path.read_text().count("\nstep(") == steps


def test_a_report_of_the_kernel(instead: Instead, capsys: pytest.CaptureFixture[str]) -> None:
    instead(Dies())
    assert main(["conform", "--seed", "1"]) == 1
    printed = capsys.readouterr()
    assert "found 'the kernel reported: BUG'" in printed.err
    assert printed.out.startswith("# SPDX")


def test_a_guest_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **named: object) -> None:
        raise lab.LabError("no such kernel")

    monkeypatch.setattr(lab, "build_image", fail)
    assert main(["conform"]) == 2
    assert capsys.readouterr().err.endswith("conform: no such kernel\n")


def test_without_hypothesis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ptshare.conform.search", None)
    assert main(["conform"]) == 2
    assert "in a checkout of ptshare: pip install '.[lab]'" in capsys.readouterr().err
