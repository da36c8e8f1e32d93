# SPDX-License-Identifier: MIT
"""CPython's own tests of mmap and SharedMemory, on this package's classes (``cpython_tests.py``)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ptshare.lab import packages
from ptshare.lab.programs import PACKAGES

SCRIPT = Path(__file__).with_name("cpython_tests.py")


def run(what: str, page_tables: str, directory: Path) -> dict[str, Any]:
    """What became of each test."""
    environment = dict(os.environ)
    if importlib.util.find_spec("test.test_mmap") is None:
        # Debian's Python comes without its tests.
        environment["PYTHONPATH"] = str(packages.cached(*PACKAGES) / "usr/lib/python3.11")
    command = [sys.executable, str(SCRIPT), what, page_tables]
    result = subprocess.run(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(
    ("what", "page_tables", "tests", "mappings"),
    [("mmap", "shared", 29, 400), ("mmap", "ordinary", 32, 400), ("shared_memory", "shared", 13, 70)],
)
def test_they_pass(tmp_path: Path, what: str, page_tables: str, tests: int, mappings: int) -> None:
    found = run(what, page_tables, tmp_path)
    assert {name: said for name, said in found["outcomes"].items() if said != "passed"} == {}
    assert len(found["outcomes"]) >= tests
    assert found["mappings"] >= mappings
