# SPDX-License-Identifier: MIT
"""Reports of trouble on the kernel's console: BUG, WARNING, lockdep, KASAN, stalls, panic."""

from dataclasses import dataclass

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """One report that the kernel printed.

    :param kind: what the kernel calls it: ``BUG``, ``WARNING``, ``KASAN``, ``lockdep``, ``panic``, ...
    :param text: its first line, without the time stamp
    :param line: number of that line in the console file, from 1
    """

    kind: str
    text: str
    line: int
