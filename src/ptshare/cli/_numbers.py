# SPDX-License-Identifier: MIT
"""Numbers of the command line, within a range."""

import argparse
from collections.abc import Callable

__all__ = ["processors", "seconds"]

#: QEMU's own machines have no more.
_MOST_PROCESSORS = 255


def processors(text: str) -> int:
    """How many processors a guest has, for argparse."""
    if not text.isascii() or not text.isdigit() or len(text) > 3 or not 1 <= int(text) <= _MOST_PROCESSORS:
        raise argparse.ArgumentTypeError(f"wanted processors, 1 to {_MOST_PROCESSORS}, found {text!r}")
    return int(text)


def seconds(most: float, zero: bool = False) -> Callable[[str], float]:
    """A time of at most so long, for argparse.

    :param zero: it may be nothing
    """

    def seconds(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = -1
        if not 0 <= found <= most or not (found or zero):
            least = "0 or more" if zero else "more than 0"
            raise argparse.ArgumentTypeError(f"wanted seconds, {least} and at most {most:g}, found {text!r}")
        return found

    return seconds
