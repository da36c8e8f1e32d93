# SPDX-License-Identifier: MIT
"""``ptshare explain`` as a user runs it, on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ptshare import abi

COMMAND = [sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())", "explain"]
SCRIPT = "file data 2G\nA mmap data 0 2M rw at 1T\nA read 1T\nA munmap 1T 4K\n"

here = pytest.mark.skipif(os.access(abi.TABLES, os.R_OK), reason="this kernel can be asked")


def run(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, **options)


@here
def test_the_model_from_a_file_and_from_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text(SCRIPT)
    first, second = run("--script", str(file)), run("--script", "-", "--model", input=SCRIPT)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == second.stdout
    assert first.stdout.startswith("A munmap 1T 4K: EINVAL\n\nhost of data rw- of rwx\n")


def test_json_and_svg(tmp_path: Path) -> None:
    result = run("--script", "-", "--model", "--json", "--svg", str(tmp_path / "x.svg"), input=SCRIPT)
    value = json.loads(result.stdout)
    assert value["outcomes"] == ["", "", "", "EINVAL"]
    assert [entry["level"] for entry in value["model"]["processes"][0]["entries"]] == ["pud", "pmd", "pte"]
    ElementTree.parse(tmp_path / "x.svg")


@pytest.mark.parametrize(
    ("arguments", "source", "said"),
    [
        ([], "", "wanted either PIDs or --script FILE"),
        (["1", "--script", "-"], "", "wanted either PIDs or --script FILE"),
        (["-1"], "", "argument PID: wanted the number of a process, 1 to 2147483647, found '-1'"),
        (["1", "--kernel"], "", "--kernel and --model belong to --script"),
        (["--script", "-"], "A jump", "ptshare explain: standard input, line 1: wanted one of mmap"),
        (["--script", "/none"], "", "ptshare explain: /none: No such file"),
        (["--script", "-", "--model", "--svg", "/none/x.svg"], SCRIPT, "/none/x.svg: No such file"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], source: str, said: str) -> None:
    result = run(*arguments, input=source)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@here
@pytest.mark.parametrize("arguments", [["1"], ["--script", "-", "--kernel"]])
def test_another_kernel(arguments: list[str]) -> None:
    result = run(*arguments, input=SCRIPT)
    assert (result.returncode, result.stdout) == (2, "")
    assert "needs one with MAP_SHARED_PT" in result.stderr
    assert "--script works anywhere, without --kernel" in result.stderr


def test_nothing_is_shared() -> None:
    result = run("--script", "-", "--model", input="file data 2G\nA mmap data 0 2M rw at 1T ordinary\n")
    assert result.returncode == 0
    assert result.stdout.startswith("No process has a mapping with MAP_SHARED_PT at the end")
