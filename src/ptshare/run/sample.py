# SPDX-License-Identifier: MIT
"""What processes share at one time: their figures are read again and again while they run."""

from dataclasses import dataclass
from pathlib import Path

from ptshare.counters import ROOT, process_tables, sharing_counters
from ptshare.run.log import alive
from ptshare.support import granule

__all__ = ["Peak", "Sampler"]


@dataclass(frozen=True)
class Peak:
    """The moment at which most was saved.

    :param processes: that had links to shared tables
    :param linked: tables of the last level that they had linked, summed over them
    :param tables: page-table pages that the kernel held for sharing, beyond those from before the program
        began; of all levels, and for whatever program
    """

    processes: int = 0
    linked: int = 0
    tables: int = 0

    @property
    def saved(self) -> int:
        """Page-table pages: each link is one that its process would have."""
        return self.linked - self.tables


class Sampler:
    """Reads the figures of the processes that a log names.

    :param log: the file that the preload library writes
    :param root: see :mod:`ptshare.counters`
    """

    def __init__(self, log: Path, root: Path = ROOT) -> None:
        self._log = log
        self._root = root
        self._read = 0
        self._pids: set[int] = set()
        self._before = self._tables()
        self.peak = Peak()

    def sample(self) -> None:
        """Read now, and keep it if more is saved than ever before."""
        self._follow()
        linked = []
        for pid in self._pids.copy():
            try:
                shared = process_tables(pid, self._root).shared_kib
            except (OSError, ValueError):
                self._pids.discard(pid)
                continue
            if shared:
                linked.append((shared << 10) // granule())
        now = Peak(len(linked), sum(linked), max(0, self._tables() - self._before))
        if now.saved > self.peak.saved:
            self.peak = now

    def _tables(self) -> int:
        counters = sharing_counters(self._root)
        return 0 if counters is None else counters.tables

    def _follow(self) -> None:
        """Processes that have come and gone since the last look."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        complete = lines.rfind(b"\n") + 1
        self._read += complete
        for line in lines[:complete].split(b"\n")[:-1]:
            what, pid, *_ = line.split(b"\t")
            if what == b"end":
                self._pids.discard(int(pid))
            elif what == b"start" and alive(int(pid), self._root):
                self._pids.add(int(pid))
