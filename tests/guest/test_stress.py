# SPDX-License-Identifier: MIT
"""``ptshare stress`` on the patched kernel: a short run finds nothing.

What is made wrong is found: test_stress_finds.py.
"""

import json
import subprocess

import pytest
from stressing import STRESS, nothing_left


@pytest.mark.guest_timeout(400)
def test_a_short_run() -> None:
    with nothing_left():
        run = subprocess.run(
            [*STRESS, "--seconds", "10", "--seed", "1", "--json"], capture_output=True, text=True
        )
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads(run.stdout)
    print(json.dumps(results, indent=2))
    assert results["page_tables"] == "shared"
    assert results["unused"] == []
    assert results["files"]["pages"] == ["memfd", "tmpfs", "tmpfs with huge pages", "ext4"]
    assert results["files"]["guard"] == ["memfd"]
    assert len(results["pressure"]) == 2
    assert results["killed"] > 0
    assert results["pages_verified"] > 0
    groups: dict[str, int] = {}
    for name, count in results["operations"].items():
        group = name.partition(".")[0]
        groups[group] = groups.get(group, 0) + count
    often = (
        "read",
        "write",
        "watch",
        "storm",
        "protect",
        "attach",
        "detach",
        "mremap",
        "punch",
        "advise",
        "refused",
    )
    assert all(groups[group] for group in often), groups
