# SPDX-License-Identifier: MIT
"""Which locks were waited for, as a kernel with CONFIG_LOCK_STAT counts it in /proc/lock_stat."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CONFIG", "Lock", "counted", "most_waited"]

#: The lab's configuration that has it.
CONFIG = "locks"

_PATH = Path("/proc/lock_stat")

#: A class of locks: its name and twelve numbers. Those of the places that took it have an address in between.
_CLASS = re.compile(r"^\s*(\S.*?):((?:\s+\d+(?:\.\d+)?){12})\s*$")

#: Which of the numbers: Documentation/locking/lockstat.rst.
_CONTENTIONS, _WAITED, _ACQUISITIONS = 1, 4, 7


@dataclass(frozen=True)
class Lock:
    """A class of locks; ``-R`` and ``-W`` at its name's end are readers and writers of one that has both.

    :param contentions: how often it was held by another when it was asked for
    :param waited_ns: by all processors together
    :param acquisitions: how often it was taken
    """

    name: str
    contentions: int
    waited_ns: float
    acquisitions: int


def most_waited(lines: Iterable[str], number: int = 5) -> list[Lock]:
    """Of /proc/lock_stat the locks that were waited for longest, the longest first."""
    found = []
    for line in lines:
        match = _CLASS.match(line)
        if match:
            values = match[2].split()
            waited = float(values[_WAITED]) * 1000
            found.append(Lock(match[1], int(values[_CONTENTIONS]), waited, int(values[_ACQUISITIONS])))
    waited_for = (lock for lock in found if lock.contentions)
    return sorted(waited_for, key=lambda lock: (-lock.waited_ns, lock.name))[:number]


@contextmanager
def counted(wanted: bool) -> Iterator[list[Lock]]:
    """A list that is filled at the end with the locks that were waited for meanwhile.

    :param wanted: else it stays empty
    :raises FileNotFoundError: the kernel does not count
    """
    found: list[Lock] = []
    if wanted:
        _PATH.write_text("0")
    yield found
    if wanted:
        with _PATH.open() as file:
            found += most_waited(file)
