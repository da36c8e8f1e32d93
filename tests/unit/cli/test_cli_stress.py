# SPDX-License-Identifier: MIT
"""The command ``ptshare stress``: options, exit status, what is printed where."""

import json
from collections.abc import Callable

import pytest

from ptshare.cli import main
from ptshare.demo.errors import CannotRunError
from ptshare.stress import session
from ptshare.stress.session import Options, Results


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """The options of the runs, which are not made."""
    found = []

    def run(options: Options, say: Callable[[str], object]) -> Results:
        found.append(options)
        say("a line")
        return Results(
            "6.12.1",
            options,
            seconds=10.0,
            operations={"read.load": 1500, "read.gup": 20, "refused": 3},
            verified=1600,
        )

    monkeypatch.setattr(session, "run", run)
    return found


def test_a_kernel_without_the_feature_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stress", "--seconds", "30", "--seed", "4"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "ptshare stress: page tables cannot be shared: this kernel does not have MAP_SHARED_PT"
    )
    assert "ptshare lab run -- .venv/bin/ptshare stress --seconds 30 --seed 4" in err
    assert err.count("\n") == 1


def test_options(asked: list[Options], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stress", "--seconds", "2.5", "--seed", "9", "--processes", "3", "--unprivileged"]) == 0
    assert main(["stress", "--ordinary"]) == 0
    assert asked[0] == Options(2.5, 9, processes=3, ordinary=False, privileged=False)
    assert (asked[1].seconds, asked[1].processes, asked[1].ordinary, asked[1].privileged) == (
        60,
        12,
        True,
        True,
    )
    out = capsys.readouterr().out
    assert "a line" in out
    assert "read             1,520  load 1,500, gup 20" in out
    assert "all              1,523  in 10.0 s, 152/s" in out
    assert "Nothing is wrong" in out


def test_another_seed_each_time(asked: list[Options]) -> None:
    for _ in range(3):
        main(["stress"])
    assert len({options.seed for options in asked}) == 3


@pytest.mark.usefixtures("asked")
def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stress", "--json", "--seed", "1"]) == 0
    out, err = capsys.readouterr()
    results = json.loads(out)
    assert (results["seed"], results["operations_total"], results["failure"]) == (1, 1523, None)
    assert results["operations_per_second"] == 152.3
    assert err == ""


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_is_wrong_is_told_with_the_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    monkeypatch.setattr(session, "run", lambda options, _: Results("k", options, failure="page 7 is wrong"))
    assert main(["stress", "--seed", "77", *options]) == 1
    out, err = capsys.readouterr()
    assert "WRONG, with seed 77:\npage 7 is wrong" in err
    assert "Nothing is wrong" not in out


@pytest.mark.parametrize(("error", "status"), [(CannotRunError("no"), 2), (KeyboardInterrupt(), 130)])
def test_other_ends_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int
) -> None:
    def fail(*_: object) -> Results:
        raise error

    monkeypatch.setattr(session, "run", fail)
    assert main(["stress"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [["--seconds", "0"], ["--seconds", "x"], ["--processes", "0"], ["--processes", "61"], ["--seed", "x"]],
)
def test_bad_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["stress", *options])
    assert caught.value.code == 2
    assert options[0] in capsys.readouterr().err
