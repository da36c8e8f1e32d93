# SPDX-License-Identifier: MIT
"""How far a build is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Callback", "Progress", "Tracker"]

_INTERVAL = 0.5


@dataclass(frozen=True)
class Progress:
    """How far a build is.

    :param stage: ``wait`` (for another build), ``fetch``, ``unpack``, ``apply``, ``configure``, ``build``,
        ``done``
    :param done: steps of this stage that are done
    :param total: steps that this stage will take, an estimate while it runs; 0: not known
    :param seconds_left: estimate for this stage, ``None``: not known
    """

    stage: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None


Callback = Callable[[Progress], object]


class Tracker:
    """Counts the steps of one stage and reports them, at most twice a second.

    :param already: steps that an earlier, interrupted run has done
    """

    def __init__(self, callback: Callback, stage: str, total: int = 0, already: int = 0) -> None:
        self._callback = callback
        self._stage = stage
        self._total = total
        self._already = min(already, total)
        self.steps = 0
        self._started = time.monotonic()
        self._reported = 0.0
        self._report()

    def step(self, count: int = 1) -> None:
        """``count`` more steps are done."""
        self.steps += count
        if time.monotonic() - self._reported >= _INTERVAL:
            self._report()

    def _report(self) -> None:
        now = time.monotonic()
        self._reported = now
        left = None
        done = self._already + self.steps
        total = max(self._total, done) if self._total else 0
        if total and self.steps >= 20:
            left = (now - self._started) / self.steps * (total - done)
        self._callback(Progress(self._stage, done, total, left))
