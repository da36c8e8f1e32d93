# SPDX-License-Identifier: MIT
"""What the benchmarks ask for, and what is reckoned from figures."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab_fixtures import FakePath
from ptshare.bench import locks, results
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
    found = reckoned(several("cold", "all_ns", {("ordinary", 8, 4): 12, ("shared-1g", 8, 4): 10}, how="disk"))
    assert found == {("shared-1g", "disk: ordinary / this, 8 processes on 4 processors"): 1.2}
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
        "ptshare.lab.build_image",
        lambda config="base", progress=None, patches=None: "patched" if patches is None else "Debian's",
    )
    assert main(["bench", "--parity", "--icount", "--short"]) == status
    assert guests == [
        ("Debian's", {"ordinary"}, {"calls", "reclaim"}),
        ("patched", {"ordinary", "shared-1g"}, {"calls", "reclaim"}),
    ]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("parity")]
    assert len(rows) == 2 * 7 + 2 * 2
    assert all(row.endswith("MISSED" if status else "reached") for row in rows)


def test_locks_that_were_waited_for() -> None:
    """Classes only, without the places that took them, and none that nobody waited for."""
    head = (
        "class name con-bounces contentions waittime-min waittime-max waittime-total waittime-avg acq-bounces"
    )
    text = f"""lock_stat version 0.4
-----------------------------------------------------------------
  {head} acquisitions holdtime-min holdtime-max holdtime-total holdtime-avg
-----------------------------------------------------------------

         &mm->mmap_lock-W:   1   2   0.20   7.10   8.00   4.00   11   12   0.5   9.0   90.1   7.5
         &mm->mmap_lock-R:   3   4   0.10  50.00  99.50  24.87   21   22   0.5   9.0   90.1   4.1
         ---------------
           &mm->mmap_lock    4    [<ffffffff81214f33>] lock_mm_and_find_vma+0x53/0x270

 (wq_completion)events_unbound:   0   0   0.00   0.00   0.00   0.00   31   32   0.5   9.0   90.1   2.8
    &xa->xa_lock#5:   5   6   0.10   1.00   9.25   1.54   41   42   0.5   9.0   90.1   2.1
"""
    assert locks.most_waited(text.splitlines()) == [
        locks.Lock("&mm->mmap_lock-R", 4, 99_500.0, 22),
        locks.Lock("&xa->xa_lock#5", 6, 9_250.0, 42),
        locks.Lock("&mm->mmap_lock-W", 2, 8_000.0, 12),
    ]
    assert [lock.name for lock in locks.most_waited(text.splitlines(), 1)] == ["&mm->mmap_lock-R"]


def test_a_kernel_that_counts_no_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(locks, "_PATH", tmp_path / "none" / "lock_stat")
    with locks.counted(False) as found:
        pass
    assert found == []
    with pytest.raises(FileNotFoundError), locks.counted(True):
        pass


def test_a_table_of_locks() -> None:
    waited = Result(
        Run("cold", "ordinary", 64 << 20, processes=8, cpus=4),
        {"all_ns": 5},
        (locks.Lock("&mm->mmap_lock-R", 1234, 99_500.0, 22_000),),
    )
    without = Result(Run("cold", "shared-1g", 64 << 20, processes=8, cpus=4), {"all_ns": 5})
    text = tables(Results({}, (waited, without)))
    assert text.splitlines()[-1].split() == [
        "ordinary", "64", "MiB", "8", "4", "99.500", "us", "1,234", "22,000", "&mm->mmap_lock-R",
    ]  # fmt: skip
    assert "locks" not in tables(Results({}, (without,)))
    data = json.loads(Results({}, (waited,)).as_json())
    assert data["results"][0]["locks"][0]["contentions"] == 1234


@pytest.mark.parametrize("other", ["--icount", "--parity"])
def test_locks_want_processors_that_run_at_the_same_time(
    other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "cold", "--locks", other]) == 2
    assert f"it does not go with {other}" in capsys.readouterr().err


@pytest.mark.parametrize("icount", [False, True])
def test_a_disk_takes_no_number_of_instructions(icount: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Run] = []

    def measured(runs_: list[Run], image: str, **options: object) -> Results:
        assert (image, options["locks"]) == ("base", False)
        asked.extend(runs_)
        return Results()

    monkeypatch.setattr("ptshare.bench.session.measure", measured)
    monkeypatch.setattr("ptshare.lab.build_image", lambda config, progress: config)
    assert main(["bench", "cold", "reclaim", *(["--icount"] if icount else [])]) == 0
    assert any(run.question == "cold" and run.disk for run in asked) is not icount
    assert any(run.question == "reclaim" and run.disk for run in asked)


def test_no_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"in a checkout of ptshare: pip install '\.\[plot\]'$"):
        draw(WARM)
