# SPDX-License-Identifier: MIT
"""Results as tables for the terminal, and for a report."""

from collections.abc import Iterator, Sequence

from ptshare.bench.bars import Bar
from ptshare.bench.results import Result, Results
from ptshare.bench.runs import QUESTIONS
from ptshare.sizes import format_bytes

__all__ = ["bar_table", "figure", "tables"]


def figure(name: str, value: float) -> str:
    """A figure as people read it; its name says the unit."""
    if name.endswith("_ns"):
        for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
            if value >= size:
                return f"{value / size:.3f} {unit}"
        return f"{value:.0f} ns"
    if name.endswith("_kib"):
        return f"{value:,.1f} KiB"
    return f"{value:,.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip()


def _label(result: Result) -> list[str]:
    run = result.run
    size = format_bytes(run.size)
    if run.touched:
        size = f"{format_bytes(run.touched)} of {size}"
    return [f"{run.method} {run.how}".strip(), size, f"{run.processes:,}", str(run.cpus)]


def _lock_rows(found: Sequence[Result]) -> list[list[str]]:
    rows = [["method", "size", "processes", "cpus", "waited", "contentions", "acquisitions", "lock"]]
    for result in found:
        for lock in result.locks:
            waited = figure("waited_ns", lock.waited_ns)
            counts = (f"{lock.contentions:,}", f"{lock.acquisitions:,}")
            rows.append([*_label(result), waited, *counts, lock.name])
    return rows


def tables(results: Results) -> str:
    """A table for each question that was asked."""
    parts = ["; ".join(f"{name}: {value}" for name, value in results.where.items())]
    for question, asks in QUESTIONS.items():
        found = results.of(question)
        if not found:
            continue
        names = list(dict.fromkeys(name for result in found for name in result.figures))
        head = ["method", "size", "processes", "cpus"]
        rows = [[*head, *(name.rpartition("_")[0] or name for name in names)]]
        for result in found:
            cells = [figure(name, result.figures[name]) if name in result.figures else "" for name in names]
            rows.append([*_label(result), *cells])
        parts.append(f"{question}: {asks}\n" + "\n".join(_aligned(rows)))
        if any(result.locks for result in found):
            parts.append(f"{question}: locks that were waited for\n" + "\n".join(_aligned(_lock_rows(found))))
    return "\n\n".join(parts) + "\n"


def bar_table(found: Sequence[Bar]) -> str:
    """What is asked for, and what was found."""
    rows = [["question", "method", "what", "bar", "found", ""]]
    for bar in found:
        limit = f"{'<=' if bar.most else '>='} {bar.limit:g}"
        verdict = "reached" if bar.reached else "MISSED" if bar.binding else "not reached"
        rows.append([bar.question, bar.method, bar.what, limit, f"{bar.found:,.3f}", verdict])
    return "\n".join(_aligned(rows)) + "\n"
