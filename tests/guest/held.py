# SPDX-License-Identifier: MIT
"""What the kernel holds for sharing."""

import time
from collections.abc import Callable

from ptshare import counters
from ptshare.counters import SharingCounters

#: Seconds until counters must be where they were.
SETTLE = 3.0


def sharing() -> SharingCounters:
    """What the kernel's domains hold now."""
    now = counters.sharing_counters()
    assert now is not None
    return now


def settles(probe: Callable[[], object], expected: object) -> bool:
    """``probe()`` becomes ``expected`` within :data:`SETTLE` seconds."""
    deadline = time.monotonic() + SETTLE
    while (found := probe()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return found == expected
