# SPDX-License-Identifier: MIT
"""Workers that read random rows of one array, by numpy.memmap and by ptshare.memmap: bench/data_loader.py."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

BENCH = Path(__file__).parents[2] / "bench/data_loader.py"
WORKERS = 2
MIB = 1024


@pytest.mark.guest_timeout(600)
def test_started_workers_on_a_warm_file() -> None:
    """Of the faults that each takes for 1 GiB no fiftieth is left, and no tables of its own."""
    command = [sys.executable, str(BENCH), "--workers", str(WORKERS), "--mib", str(MIB), "--rounds", "1"]
    result = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(result.stdout)
    ordinary, shared = (
        {name: median(worker[name] for worker in found[method]["workers"]) for name in ("faults", "own_kib")}
        for method in ("numpy", "ptshare")
    )
    assert len(found["ptshare"]["workers"]) == WORKERS
    assert ordinary["own_kib"] >= MIB * 1024 // 512
    assert shared["own_kib"] <= 40
    assert ordinary["faults"] >= 50 * shared["faults"], (ordinary, shared)
    assert found["numpy"]["tables_kib"] >= WORKERS * MIB * 1024 // 512
    assert found["ptshare"]["tables_kib"] <= WORKERS * 40
