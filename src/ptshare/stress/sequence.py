# SPDX-License-Identifier: MIT
"""Which operations a process does, and with what: the same for the same seed."""

import bisect
import itertools
import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Draw", "Drawer"]

T = TypeVar("T")

#: Bits of the number that an operation draws from; one needs a dozen draws of less than 20 bits at most.
_BITS = 320


class Draw:
    """The random numbers of one operation.

    They all come out of one large number. So however many of them an operation takes, the next operation of
    the process gets the same as if it had taken none: what it does follows from the seed, and not from what
    other processes did meanwhile.
    """

    __slots__ = ("_rest",)

    def __init__(self, number: int) -> None:
        self._rest = number

    def below(self, bound: int) -> int:
        """A number from 0 to ``bound`` - 1."""
        self._rest, value = divmod(self._rest, bound)
        return value

    def between(self, low: int, high: int) -> int:
        """A number from ``low`` to ``high``."""
        return low + self.below(high - low + 1)

    def one_in(self, bound: int) -> bool:
        """True once in ``bound`` times."""
        return self.below(bound) == 0

    def choice(self, among: Sequence[T]) -> T:
        """One of ``among``."""
        return among[self.below(len(among))]


class Drawer:
    """Draws operations by their weights.

    :param name: what the sequence follows from, such as seed, process and how often it was started
    :param weights: of each operation; 0: never
    """

    def __init__(self, name: str, weights: Sequence[int]) -> None:
        # Seeding by a string does not depend on the hash seed of this Python.
        self._random = random.Random(name)
        self._bounds = list(itertools.accumulate(weights))

    def next(self) -> tuple[int, Draw]:
        """The index of the next operation, and its numbers."""
        draw = Draw(self._random.getrandbits(_BITS))
        return bisect.bisect_right(self._bounds, draw.below(self._bounds[-1])), draw
