# SPDX-License-Identifier: MIT
"""The kernel's order of steps holds in all orders of the CPUs, and each mistake is found."""

import re
from pathlib import Path

import pytest

from ptshare.spec.races.__main__ import main
from ptshare.spec.races.catalogue import MISTAKES, RACES, run

PAGE = Path(__file__).parents[4] / "docs/races.md"


@pytest.mark.parametrize("race", RACES)
def test_all_orders_hold(race: str) -> None:
    result = run(race)
    assert result.bad is None
    assert result.ends > 0
    assert result.states > RACES[race].floor, "too few: does each CPU do what it should?"


@pytest.mark.parametrize(
    ("mistake", "race"), [(name, race) for name, mistake in MISTAKES.items() for race in mistake.races]
)
def test_each_mistake_is_found(mistake: str, race: str) -> None:
    bad = run(race, mistake).bad
    assert bad is not None
    assert f"| `{mistake}` | {MISTAKES[mistake].words} | `{race}` | {len(bad.lines)} |" in PAGE.read_text()


def test_each_race_is_on_the_page() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| \d+ \| \d+ \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(name, race.words) for name, race in RACES.items()]


TABLE_FREED_BEFORE_FLUSH = """\
last-detach: a fault against munmap of the last guest
with a mistake, free-before-flush: the domain, and its tables, are freed before the guest's flush

  1  CPU 1  munmap of A: locks the window for writing, takes it out of its tree
  2  CPU 1  A unlinks: locks its PMD table, clears the link if there is one
  3  CPU 1  A unlinks: lowers the table's count
  4  CPU 1  munmap of A: leaves the list of guests
  5  CPU 1  munmap of A: counts one guest fewer, the last one takes the domain out of the hash
  6  CPU 1  the host goes: drops the notifier that flushes, rmap can find the host still
  7  CPU 1  the host goes: clears its entry, under the table's lock
  8  CPU 1  the host goes: lets go of the page
  9  CPU 1  the host goes: takes its VMA out of i_mmap
 10  CPU 1  the host goes: frees the table

wrong: CPU 0 holds a link of A to a table that is freed
"""

BATCH_FORGOTTEN = """\
two-flushes: a CPU that leaves a guest and comes back, reclaim, and mprotect
with a mistake, batch-forgotten: mprotect and truncate do not flush what reclaim has cleared

  1  CPU 1  reclaim: takes the page off its list, locks it
  2  CPU 1  reclaim: locks i_mmap, looks for who maps the page
  3  CPU 1  reclaim: locks the table
  4  CPU 1  reclaim: clears the host's entry, if any, and keeps its dirty bit
  5  CPU 2  mprotect of B: takes its mmap_lock for writing
  6  CPU 2  mprotect of B: takes the host's mmap_lock for writing
  7  CPU 2  mprotect of B: the host's VMA allows no stores from now on
  8  CPU 2  mprotect of B: locks the table
  9  CPU 2  mprotect of B: the host's entry, if any, allows no stores from now on
 10  CPU 2  mprotect of B: returns

wrong: mprotect has returned, and CPU 0 holds a translation of A that allows stores
"""


@pytest.mark.parametrize(
    ("mistake", "text"),
    [("free-before-flush", TABLE_FREED_BEFORE_FLUSH), ("batch-forgotten", BATCH_FORGOTTEN)],
)
def test_a_trace(mistake: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mutant", mistake]) == 0
    assert capsys.readouterr().out == text


def test_the_page_shows_a_trace_as_it_is_printed() -> None:
    assert f"```\n{BATCH_FORGOTTEN}```" in PAGE.read_text()


def test_a_race_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unmap"]) == 0
    assert "all orders hold: " in capsys.readouterr().out


def test_a_mistake_that_a_race_does_not_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unmap", "--mutant", "fork-not-counted"]) == 1
    assert "all orders hold: " in capsys.readouterr().out


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert [name for name in (*RACES, *MISTAKES) if f"\n  {name} " not in printed] == []
