# SPDX-License-Identifier: MIT
"""Tables, sentences, JSON, sizes."""

import json
from dataclasses import replace

import pytest

from demo_runs import GRANULE, ORDINARY, SHARED
from ptshare.demo import report


@pytest.fixture
def results() -> report.Results:
    """A proof on two file systems, the second a little worse."""
    tmpfs = replace(SHARED, filesystem="tmpfs", page_tables_kib=4104)
    assert tmpfs.protection
    tmpfs = replace(tmpfs, protection=replace(tmpfs.protection, seconds=0.001, lost=62))
    runs = (ORDINARY, SHARED, replace(ORDINARY, filesystem="tmpfs"), tmpfs)
    return report.Results("6.12.1", GRANULE, runs, ())


def test_json(results: report.Results) -> None:
    data = json.loads(json.dumps(report.as_json(results)))
    assert set(data) == {
        "kernel",
        "granule",
        "processes",
        "bytes",
        "runs",
        "ratio",
        "protect",
        "proven",
        "shortcomings",
    }
    assert (data["kernel"], data["granule"], data["processes"], data["bytes"]) == (
        "6.12.1",
        GRANULE,
        64,
        1 << 30,
    )
    assert data["runs"][1] == {
        "filesystem": "ext4",
        "method": "shared",
        "page_tables_kib": 2572,
        "page_tables_kib_per_process": 40.188,
        "own_page_tables_kib_per_process": 8,
        "minor_faults_per_process": 259.047,
        "minor_faults_of_further_process": 3,
        "seconds_per_process": 0.130859,
    }
    assert [(run["filesystem"], run["method"]) for run in data["runs"]] == [
        ("ext4", "ordinary"),
        ("ext4", "shared"),
        ("tmpfs", "ordinary"),
        ("tmpfs", "shared"),
    ]
    assert data["ratio"] == {"page_tables": 32.0, "minor_faults": 63.27}
    assert data["protect"] == {"seconds": 0.001, "processes_affected": 62}
    assert data["proven"] is True
    assert data["shortcomings"] == []


def test_json_without_a_proof_and_without_protection() -> None:
    results = report.Results("k", GRANULE, (ORDINARY, replace(SHARED, protection=None)), ("why not",))
    data = report.as_json(results)
    assert data["protect"] is None
    assert data["proven"] is False
    assert data["shortcomings"] == ["why not"]


def test_no_growth_is_no_division_by_zero() -> None:
    shared = replace(SHARED, page_tables_kib=0, faults=(0,) * 64)
    assert report.table_ratio(ORDINARY, shared) == ORDINARY.page_tables_kib / 4
    assert report.fault_ratio(ORDINARY, shared) == 16390


def test_table() -> None:
    assert report.row(ORDINARY).split() == (
        ["ext4", "ordinary", "128.2", "MiB", "2.0", "MiB", "2.0", "MiB", "16,390", "0.5000"]
    )
    lengths = {len(line) for line in (*report.HEADER.splitlines(), report.row(ORDINARY), report.row(SHARED))}
    assert len(lengths) == 1
    assert report.comparison(ORDINARY, SHARED).strip() == (
        "51 times less page-table memory, 63 times fewer faults (3 for one that joins), 4 times quicker"
    )


def test_sentences() -> None:
    protect, survive, after = report.use_lines(SHARED)
    assert protect == "ext4: one process called protect('r'), 0.25 ms; 63 of the 63 others lost write access"
    assert "32 processes killed with SIGKILL; the other 32 read all pages again" in survive
    assert "new faults of each: 0 at most; 32 wrote again" in survive
    assert "PageTables +12 KiB" in after
    assert "0 domains, 0 guests, 0 tables" in after
    (skipped, *_) = report.use_lines(replace(SHARED, protection=None))
    assert skipped == "ext4: protection not shown, since the file is opened for reading only"


def test_arithmetic_is_called_arithmetic() -> None:
    assert report.arithmetic() == (
        "By arithmetic, not measured: 1500 processes that touch all of 300 GiB need 878.9 GiB of page-table "
        "entries with ordinary page tables, 600 MiB with shared ones."
    )
