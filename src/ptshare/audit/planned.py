# SPDX-License-Identifier: MIT
"""A plan from an audit: what the objects that can be shared would take by each method."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ptshare import plan
from ptshare.audit.model import Audit
from ptshare.audit.words import plain
from ptshare.plan import PAGE, Levels, Method, PlanError, Planned, Usage
from ptshare.sizes import format_bytes

__all__ = ["as_json", "lines", "planned"]

#: What a table for people has, each with the first of these methods that the object can have.
_COLUMNS: list[tuple[str, tuple[Method, ...]]] = [
    ("ordinary", ("ordinary",)),
    ("huge pages", ("huge_2m",)),
    ("hugetlb", ("hugetlb_2m_shared",)),
    ("shared", ("shared_pt_1g", "shared_pt_2m")),
]
_LINE = "{:>10}{:>12}{:>9}{:>12}{:>12}{:>12}{:>12}{:>12}  {}"


def planned(audit: Audit, levels: Levels) -> list[Planned]:
    """What each object that can be shared would need, those first of which most can be saved.

    :param levels: of page tables
    :raises PlanError: the host has other pages than the plan knows, or none of its objects can be planned for
    """
    if audit.host.page != PAGE:
        raise PlanError(
            f"wanted an audit of a host with pages of 4 KiB, found {format_bytes(audit.host.page)}; "
            "other tables are not known here"
        )
    found = []
    for row in _rows(audit):
        # Nothing that a snapshot says keeps the others from being planned for.
        with contextlib.suppress(PlanError):
            found += plan.plan_usage([row], levels)
    if not found:
        raise PlanError(
            "wanted an audit with an object that processes can share, found none; see ptshare audit --from"
        )
    return found


def _rows(audit: Audit) -> list[Usage]:
    return [
        Usage(plain(item.name) or item.kind, item.size, item.mappers, item.tables)
        for item in audit.by_saving()
        if item.obstacle(audit.host.granule) is None and item.size and item.mappers and item.tables
    ]


def lines(audit: Audit, found: list[Planned], most: int = 20) -> Iterator[str]:
    """The plan for people.

    :param most: objects to show
    """
    host = f"{plain(audit.host.name)}, Linux {plain(audit.host.kernel)}"
    yield f"page tables by method, from an audit of {host}"
    yield ""
    names = [name for name, _ in _COLUMNS]
    yield _LINE.format("processes", "size", "touched", "measured", *names, "object")
    for one in found[:most]:
        usage = one.usage
        figures = [_bytes(one, methods) for _, methods in _COLUMNS]
        yield _LINE.format(
            f"{usage.processes:,}",
            format_bytes(usage.size),
            f"{float(one.region.touched):.0%}",
            format_bytes(usage.tables * PAGE),
            *figures,
            usage.name,
        )
    if len(found) > most:
        yield f"{len(found) - most:,} more objects"
    if left_out := len(audit.objects) - len(found):
        things = "object is" if left_out == 1 else "objects are"
        yield f"{left_out:,} {things} left out, whose tables cannot be shared: ptshare audit --from tells why"
    yield ""
    yield "measured: tables of PTEs alone. Planned: all levels but the PGD; the first part of each object is"
    yield "taken to be touched, by each process the same, at places that suit the method. hugetlb: the kernel"
    yield "shares PMD tables by whole GiBs. shared: MAP_SHARED_PT, by 1 GiB. ptshare plan --size tells more."


def _bytes(one: Planned, methods: tuple[Method, ...]) -> str:
    by_method = {estimate.method: estimate for estimate in one.estimates}
    for method in methods:
        if method in by_method:
            return format_bytes(by_method[method].in_all.all * PAGE)
    return "-"


def as_json(audit: Audit, found: list[Planned], levels: Levels) -> dict[str, Any]:
    """The plan as JSON values; of each object the plan that ``ptshare plan`` makes."""
    return {
        "format": plan.FORMAT,
        "version": plan.VERSION,
        "host": audit.host.name,
        "kernel": audit.host.kernel,
        "objects": [
            {
                "name": one.usage.name,
                "measured_tables": one.usage.tables,
                "plan": plan.as_json(one.region, one.usage.processes, levels),
            }
            for one in found
        ],
        "left_out": len(audit.objects) - len(found),
    }
