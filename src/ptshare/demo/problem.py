# SPDX-License-Identifier: MIT
"""The problem, measured on any kernel: what ordinary page tables cost when many processes map one file.

``python -m ptshare.demo.problem`` prints it.
"""

import os
import sys

from ptshare import counters
from ptshare.demo import report, signals
from ptshare.demo.errors import CannotRunError, ProcessFailedError
from ptshare.demo.files import memfd
from ptshare.demo.measure import Run, measure
from ptshare.demo.session import needed_bytes
from ptshare.sizes import format_bytes

__all__ = ["main", "measure_problem", "text"]

PROCESSES = 32
SIZE = 512 << 20


def measure_problem(size: int = SIZE, processes: int = PROCESSES) -> Run:
    """Have processes map a memfd ordinarily and touch every page.

    :raises CannotRunError: there is too little memory
    :raises ProcessFailedError: a process failed
    """
    needed, available = needed_bytes(size, processes), counters.mem_available_kib() * 1024
    if needed > available:
        raise CannotRunError(
            f"too little memory to measure the problem here: {format_bytes(needed)} needed, "
            f"{format_bytes(available)} available"
        )
    with memfd(size) as target:
        return measure(target, "ordinary", processes)


def text(run: Run) -> str:
    """The measurement in words and a table."""
    share = sum(run.own_kib) * 1024 / run.size
    return (
        f"The problem, measured on this machine (Linux {os.uname().release}) with ordinary page tables:\n"
        f"{run.processes} processes map one file of {format_bytes(run.size)} and touch every page.\n\n"
        f"{report.HEADER}\n{report.row(run)}\n\n"
        f"The file is in memory once; its page tables are there {run.processes} times, "
        f"{report.format_kib(sum(run.own_kib))} or {share:.0%} of the file.\n"
    )


def main() -> int:
    """Measure, print, and return the exit status."""
    signals.unwind()
    try:
        print(text(measure_problem()), flush=True)
    except (CannotRunError, ProcessFailedError) as error:
        print(f"The problem could not be measured: {error}", flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
