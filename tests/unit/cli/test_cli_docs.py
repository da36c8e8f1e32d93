# SPDX-License-Identifier: MIT
"""The pages of docs/ name every option, and show what is printed."""

import argparse
import re
from importlib import import_module
from pathlib import Path

import pytest

from ptshare import cli

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("audit", "audit"),
        ("bench", "bench"),
        ("conform", "conformance"),
        ("explain", "explain"),
        ("plan", "plan"),
        ("run", "run"),
        ("stress", "stress"),
        ("top", "top"),
    ],
)
def test_each_option_is_told(command: str, page: str) -> None:
    subparsers = argparse.ArgumentParser().add_subparsers()
    import_module(f"ptshare.cli.{command}").add_parser(subparsers)
    options = set(re.findall(r"--[a-z-]+", subparsers.choices[command].format_help())) - {"--help", "--"}
    text = (DOCS / f"{page}.md").read_text()
    assert [
        option for option in sorted(options) if f"`{option}" not in text and f" {option} " not in text
    ] == []


def test_the_plan_that_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--size", "300GiB", "--processes", "1500"]) == 0
    assert f"```\n{capsys.readouterr().out}```\n" in (DOCS / "plan.md").read_text()
