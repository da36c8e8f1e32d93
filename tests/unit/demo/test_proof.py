# SPDX-License-Identifier: MIT
"""What counts as a proof, and that each thing that speaks against it is found."""

from dataclasses import replace
from typing import Any

import pytest

from demo_runs import GRANULE, ORDINARY, SHARED
from ptshare.demo.measure import Run
from ptshare.demo.proof import one_set_kib, shortcomings


def test_one_set_of_tables() -> None:
    assert one_set_kib(1 << 30, GRANULE) == (512 + 1) * 4
    assert one_set_kib((1 << 30) + 1, GRANULE) == (513 + 2) * 4
    assert one_set_kib(1, GRANULE) == 8


def test_a_proof() -> None:
    assert shortcomings([ORDINARY, SHARED], GRANULE) == []


def test_a_file_opened_for_reading_only_is_proven_without_protection() -> None:
    assert SHARED.survival
    shared = replace(SHARED, protection=None, survival=replace(SHARED.survival, write_again=None))
    assert shortcomings([ORDINARY, shared], GRANULE) == []


def test_no_runs_prove_nothing() -> None:
    assert shortcomings([], GRANULE)
    assert shortcomings([ORDINARY], GRANULE)


def test_the_same_tables_in_each_process_prove_nothing() -> None:
    """Equal data, equal times, equal everything: what ordinary page tables would show."""
    found = shortcomings([ORDINARY, replace(ORDINARY, method="shared")], GRANULE)
    assert len(found) == 4


def nested(run: Run, name: str, **changes: Any) -> Run:
    return replace(run, **{name: replace(getattr(run, name), **changes)})


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("PageTables grew by 9000 KiB", lambda run: replace(run, page_tables_kib=9000)),
        (
            "a process got 2052 KiB of page tables of its own",
            lambda run: replace(run, own_kib=(8,) * 63 + (2052,)),
        ),
        ("a further process took 5000 minor faults", lambda run: replace(run, faults=(3,) * 63 + (5000,))),
        ("only 62 of 63 other processes could write", lambda run: nested(run, "protection", could_write=62)),
        ("only 1 of 63 other processes lost write", lambda run: nested(run, "protection", lost=1)),
        ("took 500 faults for pages that it had", lambda run: nested(run, "survival", faults=(0, 500))),
        ("only 31 of 32 processes could write again", lambda run: nested(run, "survival", write_again=31)),
        ("ptshare is not there", lambda run: replace(run, aftermath=None)),
        ("4000 KiB of page tables are left", lambda run: nested(run, "aftermath", page_tables_kib=4000)),
        (
            "2 domains were in use",
            lambda run: nested(run, "aftermath", during=replace(run.aftermath.during, domains=2)),
        ),
        (
            "63 mappings were attached, not 64",
            lambda run: nested(run, "aftermath", during=replace(run.aftermath.during, guests=63)),
        ),
        (
            "5000 shared page-table pages",
            lambda run: nested(run, "aftermath", during=replace(run.aftermath.during, tables=5000)),
        ),
        (
            "0 shared page-table pages",
            lambda run: nested(run, "aftermath", during=replace(run.aftermath.during, tables=0)),
        ),
        (
            "is not as before",
            lambda run: nested(run, "aftermath", after=replace(run.aftermath.after, guests=1)),
        ),
    ],
)
def test_what_speaks_against_it(words: str, change: Any) -> None:
    (found,) = shortcomings([ORDINARY, change(SHARED)], GRANULE)
    assert found.startswith("ext4: ")
    assert words in found


def test_huge_pages_leave_nothing_to_compare_with() -> None:
    few = replace(ORDINARY, own_kib=(100,) * 64, faults=(20,) * 64)
    tables, faults = shortcomings([few, SHARED], GRANULE)
    assert "only 100 KiB of tables" in tables
    assert "only 20 faults" in faults
