# SPDX-License-Identifier: MIT
"""Where there are so many tables that to look at each would take minutes, most of an object's processes are
reckoned with: their VmPTE is exact, and what of it is for other things is about the same in all of them.
"""

__all__ = ["Estimates"]

#: Tables that are looked at in any case: about six seconds, and 4 GiB of page tables.
_MANY = 1_000_000
#: Processes of an object that are.
_SAMPLE = 16


class Estimates:
    """What is known from processes that were looked at.

    :param exact: look at all
    """

    def __init__(self, exact: bool) -> None:
        self._exact = exact
        self._looked_at = 0
        self._others: dict[int, list[int]] = {}

    def learn(self, item: int, tables: int, others: int) -> None:
        """A process was looked at.

        :param item: number of the object that most of its tables are for
        :param tables: how many are, and were looked at
        :param others: its other tables
        """
        self._looked_at += tables
        known = self._others.setdefault(item, [])
        if len(known) < _SAMPLE:
            known.append(others)

    def others(self, item: int) -> int | None:
        """How many tables a process has for other things that has this object; ``None``: look."""
        known = self._others.get(item, [])
        if self._exact or self._looked_at < _MANY or len(known) < _SAMPLE:
            return None
        return sorted(known)[len(known) // 2]
