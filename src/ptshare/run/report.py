# SPDX-License-Identifier: MIT
"""What ``ptshare run --report`` prints."""

from typing import Any

from ptshare.run.launch import Ended
from ptshare.sizes import format_bytes

__all__ = ["as_json", "lines"]

#: KiB of a page-table page on x86-64.
_TABLE_KIB = 4


def lines(ended: Ended, reason: str | None) -> list[str]:
    """The report for people.

    :param reason: why the kernel shares nothing, ``None``: it does
    """
    log, peak = ended.log, ended.peak
    if reason is not None:
        return [f"ptshare run: nothing was shared: {reason}"]
    if not log.objects:
        return ["ptshare run: nothing was shared: no process made a shared mapping that is large enough"]
    printed = ["ptshare run: what was mapped"]
    for found in sorted(log.objects.values(), key=lambda found: -found.size):
        printed.append(
            f"  {format_bytes(found.size):>10}  {found.name}: "
            + ", ".join(
                [
                    *([f"{_times(found.shared)} with shared page tables"] if found.shared else []),
                    *(f"{_times(n)} refused ({why})" for why, n in sorted(found.refused.items())),
                    *(f"{_times(n)} made ordinary by {call}" for call, n in sorted(found.converted.items())),
                ]
            )
        )
    printed.append("ptshare run: who shared; page tables of its own, memory mapped through shared ones")
    processes = list(log.processes.values())
    for process in processes:
        if process.shared_kib or process.end == "killed":
            own = "unknown" if process.own_kib is None else format_bytes(process.own_kib << 10)
            shared = "unknown" if process.shared_kib is None else format_bytes(process.shared_kib << 10)
            row = f"  {process.pid:>8}  {process.command:<15}  {own:>10}  {shared:>10}"
            printed.append(f"{row}  {_ENDS[process.end]}".rstrip())
    others = sum(1 for process in processes if not process.shared_kib and process.end != "killed")
    if others:
        printed.append(f"  {others} more had no shared page tables when they ended")
    if peak.linked:
        printed.append(
            f"ptshare run: at the peak {peak.processes} processes used {peak.linked:,} page-table pages "
            f"by links, of which {peak.tables:,} existed: "
            f"saved {format_bytes(max(0, peak.saved) * _TABLE_KIB << 10)}"
        )
    return printed


def as_json(ended: Ended, reason: str | None) -> dict[str, Any]:
    """The report for programs: sizes in bytes, tables in pages."""
    return {
        "status": ended.status,
        "not_shared_because": reason,
        "objects": [
            {
                "name": found.name,
                "bytes": found.size,
                "shared": found.shared,
                "refused": found.refused,
                "converted": found.converted,
            }
            for found in ended.log.objects.values()
        ],
        "processes": [
            {
                "pid": process.pid,
                "command": process.command,
                "end": process.end,
                "own_tables_bytes": None if process.own_kib is None else process.own_kib << 10,
                "shared_bytes": None if process.shared_kib is None else process.shared_kib << 10,
            }
            for process in ended.log.processes.values()
        ],
        "peak": {
            "processes": ended.peak.processes,
            "linked_tables": ended.peak.linked,
            "tables": ended.peak.tables,
            "saved_bytes": max(0, ended.peak.saved) * _TABLE_KIB << 10,
        },
    }


_ENDS = {"ended": "", "running": "still running", "killed": "gone without a word"}


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
