# SPDX-License-Identifier: MIT
"""Runs in the guest: one suite, part by part, each with a time limit. What it prints is for
:mod:`ptshare.lab.others.outcomes`; standard library only.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["DONE", "PART", "main"]

#: Lines that stand before and after the output of a part.
PART = "== part"
DONE = "== done"

_SECONDS = {"selftests": 900, "stress-ng": 120}
#: Where the scratch disk is mounted, for stressors that want files on a disk.
_DISK = "/mnt"
#: How long each stressor runs, and how many processes.
_STRESS_SECONDS = 5
_STRESS_PROCESSES = 4


def _run(command: Sequence[str], cwd: str, seconds: float) -> str:
    """The command's exit status, or ``timeout``. Its output goes to standard output; no process is left."""
    process = subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return str(process.wait(seconds))
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _selftest_parts(directory: str) -> list[str]:
    """Categories of run_vmtests.sh."""
    script = Path(directory, "run_vmtests.sh").read_text()
    return list(dict.fromkeys(re.findall(r'^\s*CATEGORY="(\w+)"', script, re.MULTILINE)))


def _stressors() -> list[str]:
    """Those that stress-ng counts to memory management."""
    told = subprocess.run(["stress-ng", "--class", "vm?"], capture_output=True, text=True)
    names = re.search(r"class 'vm' stressors: (.*)", told.stdout + told.stderr)
    if names is None:
        raise SystemExit(f"stress-ng does not list its stressors: {told.stdout}{told.stderr}")
    return names[1].split()


def _command(suite: str, part: str) -> list[str]:
    if suite == "selftests":
        return ["bash", "./run_vmtests.sh", "-t", part]
    options = ["--timeout", str(_STRESS_SECONDS), "--verify", "--oomable", "--pathological"]
    options += ["--temp-path", _DISK]
    return ["stress-ng", f"--{part}", str(_STRESS_PROCESSES), *options]


def main(suite: str, directory: str, *wanted: str) -> None:
    """Run the parts of a suite.

    :param suite: ``selftests`` or ``stress-ng``
    :param directory: where it is run
    :param wanted: parts; none: all
    """
    if suite == "stress-ng":
        subprocess.run(["mkfs.ext4", "-q", "-F", "/dev/vda"], check=True)
        subprocess.run(["mount", "/dev/vda", _DISK], check=True)
    parts = list(wanted) or (_selftest_parts(directory) if suite == "selftests" else _stressors())
    for part in parts:
        print(PART, part, flush=True)
        status = _run(_command(suite, part), directory, _SECONDS[suite])
        print(f"\n{DONE} {part} {status}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
