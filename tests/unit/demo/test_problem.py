# SPDX-License-Identifier: MIT
"""The problem, measured on this kernel."""

import pytest

from ptshare import counters
from ptshare.demo import problem
from ptshare.demo.errors import CannotRunError


def test_it_is_measured_and_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = problem.measure_problem(32 << 20, 3)
    monkeypatch.setattr(problem, "measure_problem", lambda: run)
    assert problem.main() == 0
    out = capsys.readouterr().out
    assert "3 processes map one file of 32 MiB and touch every page" in out
    assert "its page tables are there 3 times" in out


def test_too_little_memory_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(counters, "mem_available_kib", lambda: 1024)
    with pytest.raises(CannotRunError, match="too little memory"):
        problem.measure_problem()
    assert problem.main() == 2
    assert "The problem could not be measured: too little memory" in capsys.readouterr().out
