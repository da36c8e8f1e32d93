# SPDX-License-Identifier: MIT
"""Processes that map one file, and what the kernel's counters say of it."""

import os
import time
from dataclasses import dataclass
from statistics import mean

# Loaded here, before the fork: a child that loads a module gets page tables by it.
from ptshare import (
    _window,  # noqa: F401
    counters,
)
from ptshare.counters import SharingCounters
from ptshare.demo.crew import Crew
from ptshare.demo.files import Target
from ptshare.demo.worker import REHEARSAL_BYTES, Worker
from ptshare.mapping import Asked

__all__ = ["Aftermath", "Protection", "Run", "Survival", "measure"]

#: Seconds to wait until counters are where they were: freed tables are counted a moment later.
_SETTLE = 3.0

#: KiB by which PageTables of a quiet machine moves by itself.
NOISE_KIB = 512


@dataclass(frozen=True)
class Protection:
    """One process took the right to write away from all.

    :param seconds: of the call
    :param could_write: other processes that could write to every probed page before
    :param lost: other processes that could write to none of them after it
    """

    seconds: float
    could_write: int
    lost: int


@dataclass(frozen=True)
class Survival:
    """Half of the processes were killed with SIGKILL.

    :param killed: how many
    :param faults: of each of the others when it read every page once more
    :param write_again: of the others, how many could write to every probed page after one of them had
        allowed it again; ``None``: nobody may write to the file
    """

    killed: int
    faults: tuple[int, ...]
    write_again: int | None


@dataclass(frozen=True)
class Aftermath:
    """Counters before the first process mapped, while all had, and after the last one was gone.

    :param page_tables_kib: PageTables after, less PageTables before
    """

    page_tables_kib: int
    before: SharingCounters
    during: SharingCounters
    after: SharingCounters


@dataclass(frozen=True)
class Run:
    """One file, mapped by all processes in one way.

    Tuples have an element for each process, in the order in which they mapped; the first did so alone.

    :param page_tables_kib: growth of the machine's PageTables
    :param own_kib: growth of each process's own page tables, VmPTE
    :param faults: minor faults of each process
    :param seconds: to map and to touch all pages, of each process
    """

    filesystem: str
    method: Asked
    size: int
    page_tables_kib: int
    own_kib: tuple[int, ...]
    faults: tuple[int, ...]
    seconds: tuple[float, ...]
    protection: Protection | None = None
    survival: Survival | None = None
    aftermath: Aftermath | None = None

    @property
    def processes(self) -> int:
        """How many mapped the file."""
        return len(self.faults)

    @property
    def mean_faults(self) -> float:
        """Minor faults per process."""
        return mean(self.faults)

    @property
    def mean_seconds(self) -> float:
        """Seconds per process."""
        return mean(self.seconds)

    @property
    def mean_own_kib(self) -> float:
        """KiB of page tables of its own per process."""
        return mean(self.own_kib)


def measure(target: Target, method: Asked, processes: int) -> Run:
    """Have ``processes`` processes map ``target`` and touch every page, all alive at the end.

    With shared tables also: one process takes the right to write away from all, half of them are killed,
    the others go on.

    :raises ProcessFailedError: one of them failed
    """
    rehearsal = os.memfd_create("ptshare-rehearsal")
    try:
        os.ftruncate(rehearsal, REHEARSAL_BYTES)
        before = _settled()
        before_sharing = counters.sharing_counters()
        with Crew(processes, lambda: Worker(target, method, rehearsal)) as crew:
            crew.call("rehearse")
            start = _settled()
            # The first makes the tables alone, so that each further one shows what it costs to join. Then
            # no more at a time than there are CPUs, so that a process's seconds are its own.
            answers = crew.call("map_and_touch", members=[0])
            answers += crew.call("map_and_touch", members=crew.members[1:], at_once=os.cpu_count())
            growth = _settled() - start
            during = counters.sharing_counters()
            protection, survival = _use(crew, target.writable) if method == "shared" else (None, None)
    finally:
        os.close(rehearsal)
    aftermath = None
    if method == "shared" and before_sharing is not None and during is not None:
        aftermath = _aftermath(before, before_sharing, during)
    return Run(
        filesystem=target.filesystem,
        method=method,
        size=target.size,
        page_tables_kib=growth,
        own_kib=tuple(answer["own_kib"] for answer in answers),
        faults=tuple(answer["faults"] for answer in answers),
        seconds=tuple(answer["seconds"] for answer in answers),
        protection=protection,
        survival=survival,
        aftermath=aftermath,
    )


def _use(crew: Crew, writable: bool) -> tuple[Protection | None, Survival]:
    protection = _protect(crew) if writable else None
    doomed = crew.members[::2]  # the one that protected is among them
    crew.kill(doomed)
    faults = crew.call("touch_again")
    write_again = None
    if writable:
        crew.call("protect", "r+", members=crew.members[:1])
        write_again = sum(pages == Worker.PROBES for pages in crew.call("count_writable"))
    return protection, Survival(killed=len(doomed), faults=tuple(faults), write_again=write_again)


def _protect(crew: Crew) -> Protection:
    first, *others = crew.members
    # A write in every process before, so that each has the right in its TLB.
    could = crew.call("count_writable", members=others)
    (seconds,) = crew.call("protect", "r", members=[first])
    can = crew.call("count_writable", members=others)
    return Protection(
        seconds=seconds,
        could_write=sum(pages == Worker.PROBES for pages in could),
        lost=sum(pages == 0 for pages in can),
    )


def _settled() -> int:
    """PageTables of the machine, KiB, with what the CPUs have counted on their own."""
    if not counters.fold_per_cpu():
        time.sleep(1.2)  # the kernel does it once a second (vm.stat_interval)
    return counters.page_tables_kib()


def _aftermath(page_tables_kib: int, before: SharingCounters, during: SharingCounters) -> Aftermath:
    """Wait for a while until all is as before."""
    deadline = time.monotonic() + _SETTLE
    while True:
        left = _settled() - page_tables_kib
        after = counters.sharing_counters() or before
        if (left <= NOISE_KIB and after == before) or time.monotonic() > deadline:
            return Aftermath(left, before, during, after)
        time.sleep(0.05)
