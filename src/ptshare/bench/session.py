# SPDX-License-Identifier: MIT
"""Boot a guest, have it do the runs, and collect what it measured."""

import json
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ptshare.bench.locks import Lock
from ptshare.bench.program import compiled
from ptshare.bench.results import Result, Results
from ptshare.bench.runs import Run
from ptshare.lab import Image, LabError, cache, run_guest

__all__ = ["measure"]


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def measure(
    runs: Sequence[Run],
    image: Image,
    *,
    cpus: int,
    memory: str,
    icount: bool,
    locks: bool = False,
    say: Callable[[str], object],
    timeout: float | None = None,
) -> Results:
    """Do the runs, one after the other, in one guest.

    :param icount: its clock counts instructions
    :param locks: tell which ones were waited for; the image's configuration must have it
    :param say: called with a line for each run
    :raises LabError: the guest does not start, or a run fails, or the kernel reported something
    """
    answers: list[dict[str, Any]] = []
    pending = b""
    errors = b""

    def take(data: bytes) -> None:
        nonlocal pending
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            answers.append(json.loads(line))
            if len(answers) > 1:
                run = runs[len(answers) - 2]
                say(f"{len(answers) - 1} of {len(runs)}: {run.question}, {run.method}, {run.processes}")

    def take_error(data: bytes) -> None:
        nonlocal errors
        errors += data

    environment = {"BENCH_RUNS": json.dumps([asdict(run) for run in runs])}
    if locks:
        environment["BENCH_LOCKS"] = "1"
    guest = run_guest(
        [sys.executable, "-m", "ptshare.bench.guest", str(compiled(cache.directory("bench")))],
        image=image,
        memory=memory,
        cpus=cpus,
        env=environment,
        stdout=take,
        stderr=take_error,
        timeout=timeout,
        icount=icount,
    )
    if not guest.ok:
        raise LabError(guest.complaint() or f"the guest failed: {errors.decode(errors='replace').strip()}")
    for run, answer in zip(runs, answers[1:], strict=True):
        if "error" in answer:
            raise LabError(f"{' '.join(run.arguments())}: {answer['error']}")
    where = {
        "kernel": str(answers[0]["release"]),
        "clock": "instructions" if icount else "time",
        "processors": str(cpus),
        "memory": memory,
        "host": _processor(),
        "date": time.strftime("%d %B %Y"),
    }
    found = (
        Result(run, answer["figures"], tuple(Lock(**fields) for fields in answer["locks"]))
        for run, answer in zip(runs, answers[1:], strict=True)
    )
    return Results(where, tuple(found))
