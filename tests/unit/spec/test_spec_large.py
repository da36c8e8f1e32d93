# SPDX-License-Identifier: MIT
"""The sizes that no test machine has: every count is that of ptshare plan."""

import subprocess
import sys
from pathlib import Path

import pytest

from ptshare import plan
from ptshare.spec.entries import GIB, GRANULE
from ptshare.spec.faults import populate
from ptshare.spec.files import OpenFile
from ptshare.spec.system import READ, System

SIZE = 300 * GIB
AT = 1 << 45


def database(processes: int, shared: bool, start: int, size: int = SIZE) -> System:
    """So many processes that map and read a file."""
    system = System(1)
    opened = OpenFile(system.file("buffers", size))
    for _ in range(processes):
        process = system.process()
        assert system.mmap(process, AT + start, size, READ, opened, shared_pt=shared).errno == 0
        assert populate(system, process, AT + start, size).signal == ""
    return system


@pytest.mark.parametrize(
    ("method", "start", "size"),
    [
        ("ordinary", 0, SIZE),
        ("ordinary", 0, GIB + 3 * GRANULE),
        ("ordinary", 511 * GIB + GRANULE, 2 * GIB),
        ("shared_pt_1g", 0, SIZE),
        ("shared_pt_1g", 511 * GIB, 2 * GIB + 5 * GRANULE),
        ("shared_pt_2m", GRANULE, 20 * GIB),
        ("shared_pt_2m", 511 * GIB + GRANULE, 2 * GIB),
    ],
)
def test_counts_are_those_of_the_plan(method: plan.Method, start: int, size: int) -> None:
    system = database(3, method != "ordinary", start, size)
    planned = plan.estimate(method, plan.Region(size, start), 3)
    for process in system.processes.values():
        assert system.vm_pte(process) == planned.own[:3]
    assert system.shared_tables() == planned.once[:3]
    assert system.page_tables().all == planned.in_all.all


#: In a process of its own: prints processor seconds, KiB of memory at most, and tables of each level.
ALONE = """
import resource, sys, time
from test_spec_large import SIZE, database
system = database(1500, sys.argv[1] == "shared", 0)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss, *system.page_tables())
"""


@pytest.mark.parametrize("shared", [False, True])
def test_1500_clients_of_300_gib(shared: bool) -> None:
    """In at most 500 MiB, and 10 seconds of a machine with nothing else to do: 3.5 were measured."""
    # By a shell: of a child that this process itself makes, this one's memory would count.
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", ALONE, "shared" if shared else "own"]
    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds, memory, *tables = run.stdout.split()
    planned = plan.estimate("shared_pt_1g" if shared else "ordinary", plan.Region(SIZE), 1500)
    assert tuple(map(int, tables)) == planned.in_all[:3]
    # A busy machine, or a slow one, takes some times as long; without tables that are stored once, hours.
    assert float(seconds) < 60
    assert int(memory) < 500 << 10
