# SPDX-License-Identifier: MIT
"""What a run says: a table for people, JSON for programs."""

from collections.abc import Iterator
from typing import Any

from ptshare.stress.session import Results

__all__ = ["as_json", "table"]

_WIDTH = 108


def as_json(results: Results) -> dict[str, Any]:
    """The results as JSON values."""
    total = sum(results.operations.values())
    return {
        "kernel": results.kernel,
        "seed": results.options.seed,
        "processes": results.options.processes,
        "page_tables": "ordinary" if results.options.ordinary else "shared",
        "seconds": round(results.seconds, 3),
        "files": results.files,
        "pressure": results.pressure,
        "unused": results.unused,
        "operations": results.operations,
        "operations_total": total,
        "operations_per_second": round(total / results.seconds, 1) if results.seconds else 0,
        "pages_verified": results.verified,
        "killed": results.killed,
        "failure": results.failure or None,
    }


def table(results: Results) -> Iterator[str]:
    """The operations by kind, lines."""
    groups: dict[str, list[str]] = {}
    sums: dict[str, int] = {}
    for name, count in results.operations.items():
        group, _, how = name.partition(".")
        groups.setdefault(group, [])
        sums[group] = sums.get(group, 0) + count
        if how:
            groups[group].append(f"{how} {count:,}")
    yield f"{'operation':<12}{'done':>10}  of these"
    for group, parts in groups.items():
        line = f"{group:<12}{sums[group]:>10,} "
        for part in parts:
            if len(line) + len(part) + 2 > _WIDTH:
                yield line.rstrip()
                line = " " * 23
            line += f" {part},"
        yield line.rstrip(", ")
    total = sum(sums.values())
    yield f"{'all':<12}{total:>10,}  in {results.seconds:.1f} s, {total / max(results.seconds, 0.001):,.0f}/s"
    yield f"{results.verified:,} pages verified, {results.killed:,} processes killed and started again"
