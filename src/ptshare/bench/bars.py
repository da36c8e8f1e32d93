# SPDX-License-Identifier: MIT
"""What shared page tables have to reach: ratios of figures of one guest."""

from collections.abc import Iterator
from dataclasses import dataclass

from ptshare.bench.results import Result, Results
from ptshare.sizes import format_bytes

__all__ = ["BINDING", "PARITY", "Bar", "bars", "parity"]

#: The method that has to reach them: what a program gets that lets the kernel choose the address.
BINDING = "shared-1g"

_SHARED = ("shared-1g", "shared-2m")


@dataclass(frozen=True)
class Bar:
    """One figure and its limit.

    :param most: the limit is the most that it may be; else the least
    """

    question: str
    method: str
    what: str
    found: float
    limit: float
    most: bool

    @property
    def reached(self) -> bool:
        """It is as good as it has to be."""
        return self.found <= self.limit if self.most else self.found >= self.limit

    @property
    def binding(self) -> bool:
        """It has to be."""
        return self.method == BINDING or self.question == "parity"


def _pairs(results: Results, question: str, method: str, other: str) -> Iterator[tuple[Result, Result]]:
    """Runs that differ in the method alone. The bars are for regions of which each page is touched."""
    for ours in results.of(question, method=method, stride=4096):
        run = ours.run
        same = {"size": run.size, "processes": run.processes, "cpus": run.cpus, "how": run.how}
        for theirs in results.of(question, method=other, **same):
            yield ours, theirs


def _overhead(result: Result) -> float:
    """What mapping and faulting took, the touching itself taken off."""
    return result.figures["map_ns"] + result.figures["touch_ns"] - result.figures["again_ns"]


def _warm(results: Results, method: str) -> Iterator[Bar]:
    for ours, threads in _pairs(results, "warm", method, "threads"):
        took = ours.figures["map_ns"] + ours.figures["touch_ns"]
        yield Bar(
            "warm", method, "map and touch / a thread's touch", took / threads.figures["touch_ns"], 1.1, True
        )
    for ours, ordinary in _pairs(results, "warm", method, "ordinary"):
        ratio = _overhead(ordinary) / _overhead(ours)
        yield Bar("warm", method, "ordinary mapping and faults / these", ratio, 50, False)


def _leave(results: Results, method: str) -> Iterator[Bar]:
    for ours, ordinary in _pairs(results, "leave", method, "ordinary"):
        ratio = ordinary.figures["munmap_ns"] / ours.figures["munmap_ns"]
        yield Bar("leave", method, "ordinary munmap / this", ratio, 100, False)


def _tables(results: Results, method: str) -> Iterator[Bar]:
    for ours in results.of("tables", method=method, processes=1000):
        yield Bar("tables", method, "KiB a process, of 1,000", ours.figures["per_process_kib"], 8, True)


def _growth(
    results: Results, question: str, method: str, figure: str, many: int, **fields: str
) -> float | None:
    """A figure with many processes against one."""
    one = results.of(question, method=method, processes=1, **fields)
    more = results.of(question, method=method, processes=many, **fields)
    if not one or not more or not one[0].figures[figure]:
        return None
    return more[0].figures[figure] / one[0].figures[figure]


def _protect(results: Results, method: str) -> Iterator[Bar]:
    found = _growth(results, "protect", method, "take_ns", 1000)
    if found is not None:
        yield Bar("protect", method, "1,000 processes / 1", found, 1.2, True)


def _reclaim(results: Results, method: str) -> Iterator[Bar]:
    for how in ("pageout", "truncate"):
        found = _growth(results, "reclaim", method, "page_ns", 64, how=how)
        if found is not None:
            yield Bar("reclaim", method, f"{how}: a page, 64 mappers / 1", found, 1.1, True)


def _storm(results: Results, method: str) -> Iterator[Bar]:
    for ours, ordinary in _pairs(results, "storm", method, "ordinary"):
        ratio = ordinary.figures["all_ns"] / ours.figures["all_ns"]
        yield Bar("storm", method, f"ordinary / this, {_count(ours.run.processes)}", ratio, 20, False)


def _count(number: int, noun: str = "process") -> str:
    plural = noun if number == 1 else f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{number:,} {plural}"


def _cold(results: Results, method: str) -> Iterator[Bar]:
    for ours, ordinary in _pairs(results, "cold", method, "ordinary"):
        ratio = ordinary.figures["all_ns"] / ours.figures["all_ns"]
        what = f"ordinary / this, {_count(ours.run.processes)} on {_count(ours.run.cpus, 'processor')}"
        if ours.run.how:
            what = f"{ours.run.how}: {what}"
        yield Bar("cold", method, what, ratio, 0.95, False)


def bars(results: Results) -> list[Bar]:
    """All that can be reckoned from what was measured."""
    asked = (_tables, _warm, _storm, _cold, _protect, _reclaim, _leave)
    return [bar for reckon in asked for method in _SHARED for bar in reckon(results, method)]


#: What ordinary mappings may cost more on the patched kernel than on Debian's.
_PARITY = 1.005

#: Question -> the times of it that are one kind of call or fault.
_CALLS = {
    "calls": ("map_ns", "fault_ns", "anonymous_ns", "take_ns", "give_ns", "fork_ns", "munmap_ns"),
    "reclaim": ("page_ns",),
}
#: What has to be asked on both kernels.
PARITY = tuple(_CALLS)


def parity(results: Results, unpatched: Results) -> list[Bar]:
    """Ordinary mappings on the patched kernel against the same on one without the series."""
    theirs = {result.run: result.figures for result in unpatched.all}
    found = []
    for result in results.all:
        run = result.run
        figures = theirs.get(run)
        if figures is None or run.method != "ordinary":
            continue
        for name in _CALLS.get(run.question, ()):
            if figures[name]:
                where = f"{run.question} {run.how}".strip()
                size = f"{format_bytes(run.size)}, {run.processes}"
                what = f"{where}, {name}, {size}: patched / unpatched"
                found.append(
                    Bar("parity", run.method, what, result.figures[name] / figures[name], _PARITY, True)
                )
    return found
