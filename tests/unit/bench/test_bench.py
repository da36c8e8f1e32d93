# SPDX-License-Identifier: MIT
"""What the benchmarks ask for, and what is reckoned from figures."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab_fixtures import FakePath
from ptshare.bench import results
from ptshare.bench.bars import Bar, bars, parity
from ptshare.bench.plot import draw
from ptshare.bench.program import compiled
from ptshare.bench.results import Result, Results
from ptshare.bench.runs import METHODS, QUESTIONS, Run, runs
from ptshare.bench.text import bar_table, figure, tables
from ptshare.cli import main
from ptshare.lab import LabError

WARM = Results(
    {"kernel": "6.12"},
    (
        Result(Run("warm", "threads"), {"map_ns": 0, "touch_ns": 1000, "again_ns": 1000}),
        Result(Run("warm", "ordinary"), {"map_ns": 5, "touch_ns": 101_000, "again_ns": 1000}),
        Result(Run("warm", "shared-1g"), {"map_ns": 5, "touch_ns": 1035, "again_ns": 1000}),
        Result(Run("warm", "shared-2m"), {"map_ns": 5, "touch_ns": 1495, "again_ns": 1000}),
    ),
)


def reckoned(results_: Results) -> dict[tuple[str, str], float]:
    return {(bar.method, bar.what): bar.found for bar in bars(results_)}


def several(
    question: str, figure_name: str, values: dict[tuple[str, int, int], float], how: str = ""
) -> Results:
    """Of (method, processes, processors)."""
    return Results(
        {},
        tuple(
            Result(Run(question, method, processes=processes, cpus=cpus, how=how), {figure_name: value})
            for (method, processes, cpus), value in values.items()
        ),
    )


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_compares_shared_tables_with_something(question: str, short: bool) -> None:
    asked = runs(question, short, cpus=4)
    assert {run.question for run in asked} == {question}
    assert {run.method for run in asked} <= set(METHODS)
    assert "shared-1g" in {run.method for run in asked}
    assert len(set(asked)) == len(asked)
    assert max(run.cpus for run in asked) <= 4


def test_arguments() -> None:
    run = Run("reclaim", "ordinary", 1 << 20, processes=3, how="truncate")
    assert run.arguments() == [
        "reclaim",
        "method=ordinary",
        "size=1048576",
        "touched=0",
        "stride=4096",
        "processes=3",
        "cpus=1",
        "rounds=1",
        "how=truncate",
    ]


def test_figures() -> None:
    assert results.figures(["map_ns 12.000", "faults 3.000"]) == {"map_ns": 12.0, "faults": 3.0}


@pytest.mark.parametrize("lines", [[], ["map_ns"], ["map_ns twelve"], ["map ns 12"]])
def test_no_figures(lines: list[str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        results.figures(lines)


def test_json() -> None:
    data = json.loads(WARM.as_json())
    assert data["where"] == {"kernel": "6.12"}
    assert data["results"][0]["run"]["method"] == "threads"
    assert data["results"][0]["figures"]["touch_ns"] == 1000


def test_warm() -> None:
    """40 of mapping and faults against 100,005; 1,040 against a thread's 1,000."""
    found = reckoned(WARM)
    assert found["shared-1g", "map and touch / a thread's touch"] == 1.04
    assert found["shared-2m", "map and touch / a thread's touch"] == 1.5
    assert found["shared-1g", "ordinary mapping and faults / these"] == 100_005 / 40


def test_growth_with_the_processes() -> None:
    found = reckoned(several("protect", "take_ns", {("shared-1g", 1, 2): 50, ("shared-1g", 1000, 2): 60}))
    assert found == {("shared-1g", "1,000 processes / 1"): 1.2}
    found = reckoned(
        several("reclaim", "page_ns", {("shared-1g", 1, 2): 50, ("shared-1g", 64, 2): 60}, how="truncate")
    )
    assert found == {("shared-1g", "truncate: a page, 64 mappers / 1"): 1.2}


def test_no_growth_without_both_ends() -> None:
    assert bars(several("protect", "take_ns", {("shared-1g", 1000, 2): 60})) == []
    assert bars(several("protect", "take_ns", {("shared-1g", 1, 2): 0, ("shared-1g", 1000, 2): 60})) == []


def test_only_like_runs_are_compared() -> None:
    found = reckoned(
        several(
            "storm",
            "all_ns",
            {("ordinary", 50, 4): 300, ("shared-1g", 50, 4): 10, ("shared-1g", 500, 4): 100},
        )
    )
    assert found == {("shared-1g", "ordinary / this, 50 processes"): 30}
    found = reckoned(
        several("cold", "all_ns", {("ordinary", 8, 1): 9, ("ordinary", 8, 4): 12, ("shared-1g", 8, 4): 10})
    )
    assert found == {("shared-1g", "ordinary / this, 8 processes on 4 processors"): 1.2}


def test_tables_and_leave() -> None:
    found = reckoned(
        several("tables", "per_process_kib", {("shared-1g", 1, 1): 99, ("shared-1g", 1000, 1): 3})
    )
    assert found == {("shared-1g", "KiB a process, of 1,000"): 3}
    found = reckoned(several("leave", "munmap_ns", {("shared-1g", 1, 1): 5, ("ordinary", 1, 1): 600}))
    assert found == {("shared-1g", "ordinary munmap / this"): 120}


def test_parity_is_for_ordinary_mappings_and_like_runs() -> None:
    unpatched = several("reclaim", "page_ns", {("ordinary", 1, 1): 1000, ("shared-1g", 1, 1): 1000})
    ours = several(
        "reclaim", "page_ns", {("ordinary", 1, 1): 1006, ("ordinary", 2, 1): 5, ("shared-1g", 1, 1): 1}
    )
    found = parity(ours, unpatched)
    assert [(bar.found, bar.reached) for bar in found] == [(1.006, False)]
    assert all(bar.binding for bar in found)


@pytest.mark.parametrize(("most", "limit", "reached"), [(True, 2, True), (True, 1, False), (False, 1, True)])
def test_reached(most: bool, limit: float, reached: bool) -> None:
    assert Bar("warm", "shared-1g", "", 2.0 if limit == 2 else 1.5, limit, most).reached is reached


def test_the_bar_table_says_what_is_missed() -> None:
    lines = bar_table(
        [
            Bar("warm", "shared-1g", "a", 1.04, 1.1, True),
            Bar("warm", "shared-2m", "a", 1.5, 1.1, True),
            Bar("storm", "shared-1g", "b", 15, 20, False),
        ]
    ).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["reached", "reached", "MISSED"]
    assert "not reached" in lines[2]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("map_ns", 12, "12 ns"),
        ("map_ns", 5324, "5.324 us"),
        ("touch_ns", 1_310_811, "1.311 ms"),
        ("all_ns", 2.5e9, "2.500 s"),
        ("tables_kib", 2052, "2,052.0 KiB"),
        ("faults", 16385, "16,385"),
    ],
)
def test_figures_as_people_read_them(name: str, value: float, words: str) -> None:
    assert figure(name, value) == words


def test_tables() -> None:
    text = tables(WARM)
    assert "kernel: 6.12" in text
    assert "warm: a new process maps" in text
    row = next(line for line in text.splitlines() if line.startswith("ordinary"))
    assert row.split() == ["ordinary", "1", "GiB", "1", "1", "5", "ns", "101.000", "us", "1.000", "us"]
    assert "storm" not in text


def test_the_picture() -> None:
    pytest.importorskip("matplotlib")
    root = ElementTree.fromstring(draw(WARM))
    assert root.tag.endswith("svg")


def test_the_program_is_compiled_once(tmp_path: Path, fake_path: FakePath) -> None:
    fake_path.add("cc", f'echo called >> {tmp_path}/calls; while [ "$1" != -o ]; do shift; done; : > "$2"')
    first = compiled(tmp_path / "kept")
    assert first.exists()
    assert compiled(tmp_path / "kept") == first
    assert (tmp_path / "calls").read_text() == "called\n"


def test_no_compiler(tmp_path: Path, fake_path: FakePath) -> None:
    with pytest.raises(LabError, match="apt-get install gcc"):
        compiled(tmp_path)


def test_it_does_not_compile(tmp_path: Path, fake_path: FakePath) -> None:
    fake_path.add("cc", "echo broken >&2; exit 1")
    with pytest.raises(LabError, match=r"does not compile:\nbroken"):
        compiled(tmp_path)


def test_an_unknown_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "speed"]) == 2
    assert "no question 'speed'; there are: calls, warm" in capsys.readouterr().err


@pytest.mark.parametrize(("slower", "status"), [(1.004, 0), (1.006, 1)])
def test_parity_asks_ordinary_mappings_on_both_kernels(
    slower: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing else of Debian's kernel, which has no shared tables."""
    guests = []

    def measured(asked: list[Run], kernel: str, **_: object) -> Results:
        guests.append((kernel, {run.method for run in asked}, {run.question for run in asked}))
        value = 1000 * slower if kernel == "patched" else 1000
        names = (
            "map_ns",
            "fault_ns",
            "anonymous_ns",
            "take_ns",
            "give_ns",
            "fork_ns",
            "munmap_ns",
            "page_ns",
        )
        return Results({}, tuple(Result(run, dict.fromkeys(names, value)) for run in asked))

    monkeypatch.setattr("ptshare.bench.session.measure", measured)
    monkeypatch.setattr(
        "ptshare.lab.build_image", lambda progress, patches=None: "patched" if patches is None else "Debian's"
    )
    assert main(["bench", "--parity", "--icount", "--short"]) == status
    assert guests == [
        ("Debian's", {"ordinary"}, {"calls", "reclaim"}),
        ("patched", {"ordinary", "shared-1g"}, {"calls", "reclaim"}),
    ]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("parity")]
    assert len(rows) == 2 * 7 + 2 * 2
    assert all(row.endswith("MISSED" if status else "reached") for row in rows)


def test_no_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"in a checkout of ptshare: pip install '\.\[plot\]'$"):
        draw(WARM)
