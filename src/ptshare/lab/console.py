# SPDX-License-Identifier: MIT
"""Reports of trouble on the kernel's console: BUG, WARNING, lockdep, KASAN, stalls, panic."""

import re
from dataclasses import dataclass

__all__ = ["MARK", "Report", "Scanner", "scan"]

#: A line that begins so, written to /dev/kmsg, tells what runs from here on; see :attr:`Report.mark`.
MARK = "ptshare-mark: "


@dataclass(frozen=True)
class Report:
    """One report that the kernel printed.

    :param kind: ``BUG``, ``WARNING``, ``KASAN``, ``UBSAN``, ``Oops``, ``lockdep``, ``RCU stall``, ``hung
        task``, ``soft lockup``, ``hard lockup``, ``corruption`` or ``panic``
    :param text: its first line, without the time stamp
    :param line: number of that line in the console file, from 1
    :param mark: the last mark before it, see :data:`MARK`; empty: none yet
    """

    kind: str
    text: str
    line: int
    mark: str = ""


#: What printk puts before a message: level, time, thread or processor (CONFIG_PRINTK_CALLER).
_PREFIX = re.compile(r"^(?:<\d+>)?(?:\[ *\d+\.\d+\])?(?:\[ *[TC]\d+\])? ?")

#: Kind and how such a report begins. The first that matches counts, so the special come before the general.
_KINDS = [
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("KASAN", r"BUG: KASAN: |BUG: KFENCE: "),
        ("UBSAN", r"UBSAN: "),
        ("soft lockup", r"(watchdog: )?BUG: soft lockup"),
        ("hard lockup", r"(watchdog: |NMI watchdog: )?(Watchdog detected hard LOCKUP|BUG: hard lockup)"),
        ("RCU stall", r"(rcu: )?INFO: rcu\w* (self-)?detected (expedited )?stalls?"),
        ("hung task", r"INFO: task .* blocked (for more than|in I/O wait)"),
        (
            "lockdep",
            r"WARNING: (possible (circular|recursive|irq lock inversion)|inconsistent lock state"
            r"|bad (un|re)lock"
            r"|held lock freed|lock held when returning|Nested lock was not taken|suspicious RCU usage"
            r"|HARDIRQ-safe|SOFTIRQ-safe|[A-Z_-]+-safe -> |nested|invalid wait context)"
            r"|\[ BUG: Invalid wait context"
            r"|BUG: (MAX_LOCK|MAX_STACK_TRACE|looking up invalid subclass|held lock freed)"
            r"|INFO: lockdep is turned off|INFO: possible (circular|recursive) locking"
            r"|DEBUG_LOCKS_WARN_ON\(",
        ),
        ("panic", r"Kernel panic - not syncing"),
        ("Oops", r"Oops: |(Oops: )?general protection fault|(stack segment|double fault|invalid opcode): "),
        ("corruption", r"list_(add|del) corruption|slab .*: .*corrupt|Slab corruption"),
        ("BUG", r"BUG: |kernel BUG at |BUG \S+ \("),
        ("WARNING", r"WARNING: "),
    )
]


class Scanner:
    """Finds reports in a console's output that comes piece by piece."""

    def __init__(self) -> None:
        self._rest = b""
        self._line = 0
        self._mark = ""

    def feed(self, data: bytes) -> list[Report]:
        """Reports that begin in the lines that ``data`` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        reports = []
        for raw in lines:
            self._line += 1
            text = _PREFIX.sub("", raw.decode(errors="replace").rstrip("\r"))
            if text.startswith(MARK):
                self._mark = text.removeprefix(MARK)
                continue
            for kind, pattern in _KINDS:
                if pattern.match(text):
                    reports.append(Report(kind, text, self._line, self._mark))
                    break
        return reports


def scan(data: bytes) -> list[Report]:
    """All reports of a complete console."""
    return Scanner().feed(data + b"\n")
