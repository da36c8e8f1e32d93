# SPDX-License-Identifier: MIT
"""What the demo says: a table for people, JSON for programs."""

from dataclasses import dataclass
from typing import Any

from ptshare import abi
from ptshare.demo.measure import Run
from ptshare.sizes import format_bytes

__all__ = [
    "HEADER",
    "Results",
    "arithmetic",
    "as_json",
    "comparison",
    "row",
    "use_lines",
]

_COLUMNS = "{:<12}{:<13}{:>12}{:>13}{:>14}{:>14}{:>10}"

HEADER = "\n".join(
    (
        _COLUMNS.format("file", "page", "PageTables", "the same", "own tables", "minor faults", "seconds"),
        _COLUMNS.format(
            "system", "tables", "growth", "per process", "per process", "per process", "/process"
        ),
    )
)


@dataclass(frozen=True)
class Results:
    """All that was measured.

    :param runs: pairs of an ordinary and a shared run, a pair for each file
    :param shortcomings: what speaks against it that tables were shared
    """

    kernel: str
    granule: int
    runs: tuple[Run, ...]
    shortcomings: tuple[str, ...]

    @property
    def proven(self) -> bool:
        """Nothing speaks against it."""
        return not self.shortcomings


def as_json(results: Results) -> dict[str, Any]:
    """The results as JSON values; sizes in bytes or KiB, as the names say.

    ``ratio`` is ordinary to shared, the smallest of the file systems; ``protect`` is the slowest call and
    the smallest number of other processes that lost write access, ``None`` if the file was not writable. The
    first process makes the shared tables; ``minor_faults_of_further_process`` is the most of the others.
    """
    pairs = list(zip(results.runs[::2], results.runs[1::2], strict=True))
    protections = [run.protection for run in results.runs if run.protection]
    return {
        "kernel": results.kernel,
        "granule": results.granule,
        "processes": results.runs[0].processes,
        "bytes": results.runs[0].size,
        "runs": [
            {
                "filesystem": run.filesystem,
                "method": run.method,
                "page_tables_kib": run.page_tables_kib,
                "page_tables_kib_per_process": round(run.page_tables_kib / run.processes, 3),
                "own_page_tables_kib_per_process": round(run.mean_own_kib, 3),
                "minor_faults_per_process": round(run.mean_faults, 3),
                "minor_faults_of_further_process": max(run.faults[1:]),
                "seconds_per_process": round(run.mean_seconds, 6),
            }
            for run in results.runs
        ],
        "ratio": {
            "page_tables": round(min(table_ratio(*pair) for pair in pairs), 2),
            "minor_faults": round(min(fault_ratio(*pair) for pair in pairs), 2),
        },
        "protect": {
            "seconds": max(each.seconds for each in protections),
            "processes_affected": min(each.lost for each in protections),
        }
        if protections
        else None,
        "proven": results.proven,
        "shortcomings": list(results.shortcomings),
    }


def table_ratio(ordinary: Run, shared: Run) -> float:
    """PageTables growth, ordinary to shared; a growth of less than a page counts as one."""
    return ordinary.page_tables_kib / max(shared.page_tables_kib, 4)


def fault_ratio(ordinary: Run, shared: Run) -> float:
    """Minor faults, ordinary to shared; fewer than one per process count as one."""
    return ordinary.mean_faults / max(shared.mean_faults, 1)


def row(run: Run) -> str:
    """A line of the table."""
    return _COLUMNS.format(
        run.filesystem,
        run.method,
        format_kib(run.page_tables_kib),
        format_kib(run.page_tables_kib / run.processes),
        format_kib(run.mean_own_kib),
        f"{run.mean_faults:,.0f}",
        f"{run.mean_seconds:.4f}",
    )


def comparison(ordinary: Run, shared: Run) -> str:
    """The line under a pair of rows."""
    joining = max(shared.faults[1:])
    return (
        f"{'':<12}{table_ratio(ordinary, shared):.0f} times less page-table memory, "
        f"{fault_ratio(ordinary, shared):.0f} times fewer faults ({joining} for one that joins), "
        f"{ordinary.mean_seconds / shared.mean_seconds:.0f} times quicker"
    )


def use_lines(shared: Run) -> list[str]:
    """What the processes went through after the touching, in sentences."""
    lines = []
    others = shared.processes - 1
    if protection := shared.protection:
        lines.append(
            f"{shared.filesystem}: one process called protect('r'), {protection.seconds * 1e3:.2f} ms; "
            f"{protection.lost} of the {others} others lost write access"
        )
    else:
        lines.append(f"{shared.filesystem}: protection not shown, since the file is opened for reading only")
    if survival := shared.survival:
        line = (
            f"{shared.filesystem}: {survival.killed} processes killed with SIGKILL; the other "
            f"{len(survival.faults)} read all pages again, new faults of each: {max(survival.faults)} at most"
        )
        if survival.write_again is not None:
            line += f"; {survival.write_again} wrote again after protect('r+')"
        lines.append(line)
    if aftermath := shared.aftermath:
        lines.append(
            f"{shared.filesystem}: after the last process PageTables {aftermath.page_tables_kib:+d} KiB; "
            f"{abi.SYSFS}: {aftermath.after.domains} domains, {aftermath.after.guests} guests, "
            f"{aftermath.after.tables} tables"
        )
    return lines


def arithmetic(size: int = 300 << 30, processes: int = 1500) -> str:
    """What tables a large case needs, by arithmetic: an entry of 8 bytes for each page of 4 KiB, in each
    process or once.
    """
    once = size // 4096 * abi.PAGE_TABLE_ENTRY
    return (
        f"By arithmetic, not measured: {processes} processes that touch all of {format_bytes(size)} need "
        f"{format_bytes(once * processes)} of page-table entries with ordinary page tables, "
        f"{format_bytes(once)} with shared ones."
    )


def format_kib(kib: float) -> str:
    """KiB for people."""
    return format_bytes(kib * 1024)
