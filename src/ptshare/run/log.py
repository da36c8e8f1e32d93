# SPDX-License-Identifier: MIT
"""What the preload library has written of the processes that it was in (``ptshare/preload/log.c``)."""

import contextlib
import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ptshare.counters import ROOT, process_tables

__all__ = ["Log", "Object", "Process", "alive"]


@dataclass
class Object:
    """Something that is mapped, and how that went.

    :param shared: mappings made with shared page tables
    :param refused: errors of the kernel -> mappings that so stayed ordinary
    :param converted: calls -> mappings that they made ordinary again
    :param size: bytes of the largest mapping
    """

    name: str
    shared: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    converted: dict[str, int] = field(default_factory=dict)
    size: int = 0


@dataclass
class Process:
    """A process that the library was in.

    :param command: its name, as in /proc/PID/comm, when it last said anything
    :param end: ``ended``: as programs do; ``running``: it still is; ``killed``: it has gone without a word,
        by SIGKILL, say
    :param own_kib: its own page tables, KiB, at its end or now; ``None``: unknown
    :param shared_kib: memory that it mapped through shared tables, KiB, then; ``None``: unknown
    """

    pid: int
    command: str
    end: str = "killed"
    own_kib: int | None = None
    shared_kib: int | None = None


@dataclass
class Log:
    """All that was written."""

    processes: dict[int, Process] = field(default_factory=dict)
    objects: dict[str, Object] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, root: Path = ROOT) -> Self:
        """Read the log; of processes that still run, what they have now.

        :param root: see :mod:`ptshare.counters`
        """
        log = cls()
        # Names may have what else str.splitlines() takes for the end of a line.
        for line in path.read_bytes().decode(errors="replace").split("\n")[:-1]:
            log._take(line.split("\t"))
        for process in log.processes.values():
            if process.end != "ended" and alive(process.pid, root):
                with contextlib.suppress(OSError, ValueError):  # it ends just now
                    tables = process_tables(process.pid, root)
                    process.own_kib, process.shared_kib = tables.own_kib, tables.shared_kib
                    process.end = "running"
        return log

    def _take(self, fields: list[str]) -> None:
        what, pid, command = fields[0], int(fields[1]), fields[2]
        if what == "start":
            self.processes[pid] = Process(pid, command)
            return
        if pid not in self.processes:
            return  # a child of vfork(), which ends in its parent's memory
        process = self.processes[pid]
        process.command = command
        if what == "end":
            process.end = "ended"
            process.own_kib, shared = int(fields[3]), int(fields[4])
            process.shared_kib = None if shared < 0 else shared
            return
        name = fields[-1]
        found = self.objects.setdefault(name, Object(name))
        found.size = max(found.size, int(fields[3]))
        if what == "shared":
            found.shared += 1
        elif what == "refused":
            reason = errno.errorcode.get(int(fields[4]), fields[4]).replace("ENOTSUP", "EOPNOTSUPP")
            found.refused[reason] = found.refused.get(reason, 0) + 1
        elif what == "converted":
            found.converted[fields[4]] = found.converted.get(fields[4], 0) + 1


def alive(pid: int, root: Path = ROOT) -> bool:
    """The process is there and has the library, so that it is not another one that has got its number."""
    try:
        return "ptshare/preload/_library" in (root / "proc" / str(pid) / "maps").read_text(errors="replace")
    except OSError:
        return False
