# SPDX-License-Identifier: MIT
"""Where what the kernel did is not what the model says."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ptshare.conform.calls import Program, name
from ptshare.conform.expected import Expectation
from ptshare.conform.views import ProcessView
from ptshare.spec.entries import GIB, GRANULE, PAGE

__all__ = ["Difference", "first_difference"]


class Difference(NamedTuple):
    """The first thing that is not as it should be.

    :param step: its number; that of the last one plus one: at the end
    :param what: what is compared, such as "errno" or "maps of B"
    """

    step: int
    what: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"{self.what}: expected {_text(self.expected)}, found {_text(self.found)}"


def first_difference(
    program: Program, expectations: list[Expectation], found: dict[str, Any]
) -> Difference | None:
    """Compare all that can be seen after each step.

    :param found: see :meth:`ptshare.conform.kernel.Kernel.run`
    """
    for number, (expectation, seen) in enumerate(zip(expectations, found["steps"], strict=True)):
        for what, wanted, got in _differences(expectation, seen):
            return Difference(number, what, wanted, got)
    grown, known = found["page_tables"]
    if grown != known:
        # Each table is counted once, and no table is forgotten: PageTables has that of all processes.
        return Difference(len(program.steps), "PageTables, pages", known, grown)
    if found["left"] != [0, 0, 0]:
        return Difference(
            len(program.steps), "domains, guests and tables after the end of all", [0, 0, 0], found["left"]
        )
    return None


def _differences(expectation: Expectation, seen: dict[str, Any]) -> Iterator[tuple[str, object, object]]:
    answer, view = expectation
    value, errno, signal, faults = seen["answer"]
    if signal != answer.signal:
        yield "signal", answer.signal, signal
    if errno != answer.errno:
        yield "errno", answer.errno, errno
    if not errno and not signal:
        if value != answer.value:
            yield "value", answer.value, value
        if faults > answer.faults:
            yield "faults", f"at most {answer.faults}", faults
    domains, guests, tables = seen["sysfs"]
    if domains != view.domains:
        yield "domains", view.domains, domains
    yield from _outside("guests", view.guests, guests)
    yield from _outside("tables of domains", view.tables, tables)
    processes = {int(place): state for place, state in seen["processes"].items()}
    if processes.keys() != view.processes.keys():
        yield "processes", sorted(view.processes), sorted(processes)
    for place, process in view.processes.items():
        yield from _of_process(name(place), process, processes[place], view.unsure)


def _of_process(
    who: str, wanted: ProcessView, seen: dict[str, Any], unsure: dict[int, set[int]]
) -> Iterator[tuple[str, object, object]]:
    if seen["maps"] != wanted.maps:
        yield f"maps of {who}", wanted.maps, seen["maps"]
    if seen["present"] != wanted.present:
        doubted = _doubted(wanted.maps, unsure)
        if not _agrees(wanted, _pages(seen["present"]), doubted):
            yield f"pages present in {who}", wanted.present, seen["present"]
    single = [each.linked for at, each in wanted.either.items() if at // GIB * GIB not in wanted.gibs]
    least = wanted.shared - sum(wanted.gibs.values()) - sum(single) * GRANULE
    most = least + len(wanted.gibs) * GIB + len(single) * GRANULE
    yield from _outside(f"VmSharedPT of {who}", (least, most), seen["shared"])
    # A GiB that is linked as a whole, or is not, is one table less, or more.
    gibs = len(wanted.gibs.keys() | {at // GIB * GIB for at in wanted.either})
    least, most = wanted.own
    yield from _outside(f"VmPTE of {who}", (least - gibs, most + gibs), seen["own"])


def _outside(what: str, wanted: tuple[int, int], seen: int) -> Iterator[tuple[str, object, object]]:
    least, most = wanted
    if not least <= seen <= most:
        yield what, least if least == most else f"{least} to {most}", seen


def _pages(runs: list[list[int]]) -> set[int]:
    return {page for start, end in runs for page in range(start // PAGE, end // PAGE)}


def _agrees(wanted: ProcessView, seen: set[int], doubted: set[int]) -> bool:
    """What is seen in a process is what is wanted; of a granule that may be linked or not, all or nothing."""
    differ = (_pages(wanted.present) ^ seen) - doubted
    for at in {page * PAGE // GRANULE * GRANULE for page in differ}:
        found = seen.intersection(range(at // PAGE, (at + GRANULE) // PAGE)) - doubted
        if at not in wanted.either or found not in (set(), wanted.either[at].present - doubted):
            return False
    return True


def _doubted(maps: list[list[int]], unsure: dict[int, set[int]]) -> set[int]:
    """Pages of a process that may be there or not."""
    if not unsure:
        return set()
    found = set()
    for start, end, _, offset, file in maps:
        for page in unsure.get(file, ()):
            address = start + page * PAGE - offset
            if start <= address < end:
                found.add(address // PAGE)
    return found


def _text(value: object) -> str:
    """Addresses in hexadecimal."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return hex(value) if isinstance(value, int) and value >= PAGE else repr(value)
