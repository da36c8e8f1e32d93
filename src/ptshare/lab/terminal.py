# SPDX-License-Identifier: MIT
"""Progress for people: one line that is rewritten on a terminal, few lines in a log."""

import sys
import time
from typing import TextIO

from ptshare.lab.progress import Progress

__all__ = ["ProgressLine"]

_STAGES = {
    "wait": "waiting for another build",
    "fetch": "fetching the kernel's source from Debian",
    "unpack": "unpacking the kernel's source",
    "apply": "applying the new files and the series",
    "configure": "configuring",
    "build": "building the kernel",
}
_LOG_INTERVAL = 20.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class ProgressLine:
    """A progress callback that writes to ``stream`` (default: standard error). Silent if nothing had to be
    done.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._tty = self._stream.isatty()
        self._stage = ""
        self._written = 0.0
        self._started = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == "done":
            if self._stage:
                self._end_line()
                self._print(f"lab: kernel ready after {_duration(now - self._started)}\n")
            return
        if not self._stage:
            self._started = now
        new_stage = progress.stage != self._stage
        if new_stage:
            self._end_line()
            self._stage = progress.stage
        text = f"lab: {_STAGES[progress.stage]}"
        if progress.total:
            text += f": {progress.done} of about {progress.total}"
        elif progress.done:
            text += f": {progress.done}"
        if progress.seconds_left is not None:
            text += f", about {_duration(progress.seconds_left)} left"
        if self._tty:
            self._print(f"\r{text}\x1b[K")
        elif new_stage or now - self._written >= _LOG_INTERVAL:
            self._print(f"{text}\n")
            self._written = now

    def _end_line(self) -> None:
        if self._tty and self._stage:
            self._print("\n")

    def _print(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
