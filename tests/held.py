# SPDX-License-Identifier: MIT
"""What the kernel holds for sharing."""

import time
from collections.abc import Callable

from ptshare import counters
from ptshare.counters import SharingCounters

#: Seconds until counters must be where they were, unless a test says how long.
SETTLE = 3.0


def sharing() -> SharingCounters:
    """What the kernel's domains hold now."""
    now = counters.sharing_counters()
    assert now is not None
    return now


def settles(probe: Callable[[], object], expected: object, seconds: float = SETTLE) -> bool:
    """``probe()`` becomes ``expected`` within so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := probe()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return found == expected
