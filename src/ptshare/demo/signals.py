# SPDX-License-Identifier: MIT
"""Ctrl-C and SIGTERM: the demo unwinds, so that processes, mounts and files go."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["reset", "uninterrupted", "unwind"]

_ENDINGS = (signal.SIGINT, signal.SIGTERM)


def unwind() -> None:
    """Have SIGTERM raise SystemExit, with the status of a process that was ended by it."""
    signal.signal(signal.SIGTERM, _end)


def reset() -> None:
    """For a child after a fork: SIGTERM ends it; Ctrl-C, which goes to the whole group, is left to the
    parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off both signals, for a step that is done together with the note that it is done, or not at all."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)


def _end(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)
