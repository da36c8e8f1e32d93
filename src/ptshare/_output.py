# SPDX-License-Identifier: MIT
"""Standard output that is full, or that nobody reads any more, for commands that print and end."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ["guarded"]

_CANNOT = 2
_NO_READER = 128 + signal.SIGPIPE


class _OutputError(Exception):
    """Not an OSError: who handles those means other files."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.errno = error.errno


class _Raw(io.RawIOBase):
    """Bytes to a descriptor, until it fails."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._failed = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: Any, /) -> int:
        if self._failed:
            return memoryview(data).nbytes  # what is still in buffers is lost without another word
        try:
            return os.write(self._fd, data)
        except OSError as error:
            self._failed = True
            raise _OutputError(error) from None


def guarded(name: str, work: Callable[[], int]) -> int:
    """What ``work`` returns; 2 and a line if its standard output cannot be written; 141, as a shell gives it,
    if it is a pipe without a reader.

    :param name: of the command, for the line
    """
    before = sys.__stdout__
    # Tests put something else there.
    if before is None or sys.stdout is not before:
        return work()
    try:
        before.flush()
        ours = sys.stdout = _like(before)
    except (OSError, ValueError):
        return work()
    try:
        try:
            return work()
        finally:
            ours.flush()
    except _OutputError as error:
        if error.errno == errno.EPIPE:
            return _NO_READER
        print(f"{name}: cannot write to standard output: {error}", file=sys.stderr)
        return _CANNOT
    finally:
        sys.stdout = before


def _like(stream: TextIO) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(stream.fileno())),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=bool(stream.line_buffering),
        write_through=getattr(stream, "write_through", False),
    )
