# SPDX-License-Identifier: MIT
"""Which descriptors this process has open."""

import os
from contextlib import suppress


def descriptors() -> dict[str, str]:
    """Each open descriptor and what it is of, but for the one that reads the list.

    That one takes the lowest number that is free, which changes while a thread opens and closes files.
    """
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found
