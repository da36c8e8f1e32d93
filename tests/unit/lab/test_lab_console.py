# SPDX-License-Identifier: MIT
"""Reports are found in recorded consoles, and nothing else is."""

from pathlib import Path

import pytest

from ptshare.lab.console import Report, Scanner, scan

CONSOLES = Path(__file__).with_name("consoles")


def kinds(name: str) -> list[str]:
    return [report.kind for report in scan((CONSOLES / name).read_bytes())]


def test_clean_console() -> None:
    assert kinds("clean.log") == []


def test_lockdep_is_told_from_other_warnings_and_carries_the_mark() -> None:
    assert scan((CONSOLES / "lockdep.log").read_bytes()) == [
        Report(
            "lockdep",
            "WARNING: possible circular locking dependency detected",
            4,
            "tests/guest/test_sharing.py::test_two_guests",
        )
    ]


def test_oops_and_panic() -> None:
    assert kinds("oops.log") == ["BUG", "Oops", "panic"]


def test_all_kinds() -> None:
    assert kinds("mixed.log") == [
        "WARNING",
        "BUG",
        "BUG",
        "KASAN",
        "RCU stall",
        "RCU stall",
        "soft lockup",
        "hung task",
        "BUG",
        "corruption",
        "BUG",
        "BUG",
        "UBSAN",
        "BUG",
    ]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_pieces_make_no_difference(size: int) -> None:
    data = (CONSOLES / "mixed.log").read_bytes()
    scanner = Scanner()
    reports = [report for at in range(0, len(data), size) for report in scanner.feed(data[at : at + size])]
    assert reports == scan(data)


def test_marks_apply_from_their_line_on() -> None:
    text = b"<4>WARNING: a\n[ 1.0] ptshare-mark: one\n[ 1.1] WARNING: b\r\n[ 1.2] ptshare-mark: two\nBUG: c\n"
    assert [(report.text, report.line, report.mark) for report in scan(text)] == [
        ("WARNING: a", 1, ""),
        ("WARNING: b", 3, "one"),
        ("BUG: c", 5, "two"),
    ]
