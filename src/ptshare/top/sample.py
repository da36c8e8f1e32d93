# SPDX-License-Identifier: MIT
"""What is read at each refresh: an audit, and the page faults of processes and of the host."""

import os
import time
from dataclasses import dataclass, field

from ptshare.audit import proc
from ptshare.audit.collect import Scope, collect
from ptshare.audit.model import Audit

__all__ = ["Faults", "ProcessStat", "Sample", "parse_stat", "parse_vmstat", "take"]

#: Bytes of a command line: some are of megabytes.
_LONGEST_LINE = 4096


@dataclass(frozen=True, slots=True)
class Faults:
    """Page faults so far.

    :param minor: those that needed no I/O
    :param major: those that did
    """

    minor: int
    major: int


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What an audit does not tell of a process.

    :param started: when, in clock ticks since boot: a number may have been given to another process since
    :param faults: of its threads, too
    :param line: its command line; empty: it has none, or it cannot be read
    """

    started: int
    faults: Faults
    line: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """All that is read at a refresh.

    :param at: when, in seconds of a clock that is never set
    :param stats: by number of the process; those that could be read
    :param faults: of the host; ``None``: it does not tell
    """

    audit: Audit
    at: float
    stats: dict[int, ProcessStat] = field(default_factory=dict)
    faults: Faults | None = None


def take(scope: Scope | None = None, root: str = "") -> Sample:
    """Read the host.

    :param root: see :mod:`ptshare.audit.proc`
    :raises OSError: there is no /proc
    :raises ptshare.audit.proc.FormatError: it is not what is known of it
    """
    audit = collect(scope, root, count=False)
    at = time.monotonic()
    faults = parse_vmstat(_try(f"{root}/proc/vmstat"))
    stats = {}
    for process in audit.processes:
        directory = f"{root}/proc/{process.pid}"
        found = parse_stat(_try(f"{directory}/stat"))
        if found is not None:
            line = _try(f"{directory}/cmdline")[:_LONGEST_LINE].rstrip(b"\0").replace(b"\0", b" ")
            stats[process.pid] = ProcessStat(*found, os.fsdecode(line))
    return Sample(audit, at, stats, faults)


def parse_stat(data: bytes) -> tuple[int, Faults] | None:
    """When a process started, and its faults, from /proc/PID/stat.

    :returns: ``None``: it is not what is known of it, or empty as of a process that has ended
    """
    # The name stands in brackets, and may have some itself.
    fields = data.rpartition(b")")[2].split()
    try:
        return int(fields[19]), Faults(int(fields[7]), int(fields[9]))
    except (IndexError, ValueError):
        return None


def parse_vmstat(data: bytes) -> Faults | None:
    """Faults of the host from /proc/vmstat, where ``pgfault`` has the major ones, too."""
    found = {}
    for line in data.split(b"\n"):
        name, _, value = line.partition(b" ")
        found[name] = value
    try:
        major = int(found[b"pgmajfault"])
        return Faults(max(0, int(found[b"pgfault"]) - major), major)
    except (KeyError, ValueError):
        return None


def _try(path: str) -> bytes:
    try:
        return proc.read_file(path)
    except OSError:
        return b""
