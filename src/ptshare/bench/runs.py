# SPDX-License-Identifier: MIT
"""What is measured: which runs of the workload each question asks for."""

from dataclasses import dataclass

__all__ = ["METHODS", "QUESTIONS", "Run", "runs"]

_PAGE, _MIB, _GIB = 4096, 1 << 20, 1 << 30
_GRANULE = 2 * _MIB

#: Method -> what it is.
METHODS = {
    "ordinary": "ordinary page tables, pages of 4 KiB",
    "tmpfs-huge": "tmpfs with transparent huge pages",
    "hugetlb": "hugetlb pages of 2 MiB, with the kernel's sharing of their tables",
    "shared-2m": "MAP_SHARED_PT at an address where each 2 MiB are linked",
    "shared-1g": "MAP_SHARED_PT where the kernel puts it: a whole GiB is one link",
    "threads": "threads of one process",
}

#: Question -> what it asks.
QUESTIONS = {
    "calls": "each call and each fault by itself, of memory that another process has",
    "warm": "a new process maps a warm region and touches every page",
    "leave": "munmap of a warm region, and exit with it mapped",
    "tables": "page-table memory of many processes",
    "protect": "one change of protection that all processes get",
    "fork": "fork with a large region mapped, and the child's touch of it",
    "reclaim": "cost of each page that MADV_PAGEOUT or truncation takes from many mappers",
    "storm": "many processes start at once and touch a warm region",
    "cold": "processes on all processors fault a cold file in together",
}


@dataclass(frozen=True)
class Run:
    """One run of the workload; bytes, except for numbers of processes, processors and rounds.

    :param touched: of the region, from its start; 0: all of it
    :param stride: a page is touched every so many bytes
    :param cpus: on which the processes run, one after the other
    :param rounds: of which the median counts
    :param disk: the file is on a disk, ext4; else it is memory
    :param how: where a question has several ways
    """

    question: str
    method: str
    size: int = _GIB
    touched: int = 0
    stride: int = _PAGE
    processes: int = 1
    cpus: int = 1
    rounds: int = 1
    disk: bool = False
    how: str = ""

    def arguments(self) -> list[str]:
        """For the program; where the file is comes to that."""
        names = ("method", "size", "touched", "stride", "processes", "cpus", "rounds", "how")
        return [self.question, *(f"{name}={getattr(self, name)}" for name in names)]


_OWN = ("ordinary", "shared-2m", "shared-1g")
_NOT_HUGE = (*_OWN, "threads")
_SHORT = ("ordinary", "shared-1g")

#: The short form touches so much of a GiB: to fill the rest would be most of the emulation's work. It favours
#: ordinary tables, since what mapping costs with shared ones is the same for any part of the GiB.
_PART = 256 * _MIB


def _calls(short: bool, cpus: int) -> list[Run]:
    # A small one as well: in a large one the pages take so much that the call itself is not seen.
    return [Run("calls", "ordinary", 16 * _PAGE, rounds=101)] + [
        Run("calls", method, 4 * _MIB, rounds=101) for method in _SHORT
    ]


def _warm(short: bool, cpus: int) -> list[Run]:
    if short:
        return [Run("warm", method, touched=_PART, rounds=3) for method in (*_SHORT, "threads")]
    found = [Run("warm", method, rounds=3) for method in ("hugetlb", "tmpfs-huge", *_NOT_HUGE)]
    return found + [Run("warm", method, 8 * _GIB, stride=_GRANULE, rounds=3) for method in _NOT_HUGE]


def _leave(short: bool, cpus: int) -> list[Run]:
    if short:
        return [Run("leave", method, touched=_PART, rounds=3) for method in _SHORT]
    found = [Run("leave", method, rounds=3) for method in ("hugetlb", "tmpfs-huge", *_OWN)]
    return found + [Run("leave", method, 8 * _GIB, stride=_GRANULE, rounds=3) for method in _OWN]


def _tables(short: bool, cpus: int) -> list[Run]:
    if short:
        return [Run("tables", "shared-1g", stride=_GRANULE, processes=1000)]
    # The tables of an ordinary mapping would fill the guest: fewer processes tell as much.
    by_number = [
        Run("tables", method, stride=_GRANULE, processes=processes)
        for method in ("hugetlb", "tmpfs-huge", *_NOT_HUGE)
        for processes in (1, 10, 100, 1000)
        if not (method == "ordinary" and processes > 100)
    ]
    # A page is touched in each 2 MiB: there is no need for as much memory.
    by_size = [
        Run("tables", method, size, stride=_GRANULE, processes=100)
        for method in _NOT_HUGE
        for size in (_GRANULE, 64 * _MIB, 8 * _GIB)
    ]
    return by_number + by_size


def _protect(short: bool, cpus: int) -> list[Run]:
    if short:
        return [
            Run("protect", "shared-1g", 16 * _MIB, processes=processes, cpus=cpus, rounds=3)
            for processes in (1, 1000)
        ]
    return [
        Run("protect", method, 16 * _MIB, processes=processes, cpus=cpus, rounds=3)
        for method in _NOT_HUGE
        for processes in (1, 10, 100, 1000)
    ]


def _fork(short: bool, cpus: int) -> list[Run]:
    return [
        Run("fork", method, 8 * _GIB, stride=_GRANULE, rounds=9) for method in (_SHORT if short else _OWN)
    ]


def _reclaim(short: bool, cpus: int) -> list[Run]:
    return [
        Run("reclaim", method, 4 * _MIB, processes=processes, cpus=cpus, rounds=5, disk=True, how=how)
        for how in ("pageout", "truncate")
        for method in (_SHORT if short else _OWN)
        for processes in ((1, 64) if short else (1, 16, 64, 256))
    ]


def _storm(short: bool, cpus: int) -> list[Run]:
    if short:
        return [Run("storm", method, touched=_PART, processes=4, cpus=cpus) for method in _SHORT]
    few = [Run("storm", method, processes=50, cpus=cpus) for method in ("hugetlb", "tmpfs-huge", *_NOT_HUGE)]
    return few + [Run("storm", method, processes=500, cpus=cpus) for method in _NOT_HUGE]


def _cold(short: bool, cpus: int) -> list[Run]:
    in_memory = [
        Run("cold", method, 64 * _MIB, processes=processes, cpus=number)
        for method in (_SHORT if short else _NOT_HUGE)
        for processes in (1, 8)
        for number in (sorted({1, cpus} if short else {1, 2, 4, cpus}) if processes > 1 else (1,))
        if number <= cpus
    ]
    if short:
        return in_memory
    return in_memory + [
        Run("cold", method, 64 * _MIB, processes=8, cpus=cpus, disk=True, how="disk") for method in _NOT_HUGE
    ]


_ASKED = {
    "calls": _calls,
    "warm": _warm,
    "leave": _leave,
    "tables": _tables,
    "protect": _protect,
    "fork": _fork,
    "reclaim": _reclaim,
    "storm": _storm,
    "cold": _cold,
}


def runs(question: str, short: bool, cpus: int) -> list[Run]:
    """What a question asks for.

    :param short: only what the bars need, and less of it
    :param cpus: of the guest
    """
    return _ASKED[question](short, cpus)
