# SPDX-License-Identifier: MIT
"""Memory that all processes of a run have mapped, ordinarily: what pages and rights must be, and who has done
what.

All that is read by others while it is written is a word of 8 bytes, stored and loaded whole. Who changes a
page announces its next version first and declares it current last:

* announced = current: the page holds this version, if the two are still the same after it was looked at;
* announced != current: somebody is at it, or was killed at it.
"""

import mmap
import os
import struct
import time
from dataclasses import dataclass

__all__ = ["BEGUN", "DONE", "LOG", "SKIPPED", "Control", "Entry"]

#: Operations of which a process leaves a record.
LOG = 48
#: time, number, kind, outcome, file, access class, page, address, more
_ENTRY = struct.Struct("<QQhhhhQQQ")
_ENTRY_WORDS = 8
_TEXT_WORDS = 1024

BEGUN, DONE, SKIPPED = 0, 1, 2


@dataclass(frozen=True)
class Entry:
    """An operation that a process began.

    :param time: nanoseconds of the monotonic clock
    :param number: of the operation in this life of the process
    :param outcome: :data:`BEGUN`, :data:`DONE` or :data:`SKIPPED`
    :param file: number of the file, -1: none
    :param access: number of the access class, -1: none
    :param more: whatever the operation wants to tell
    """

    time: int
    number: int
    kind: int
    outcome: int
    file: int
    access: int
    page: int
    address: int
    more: int


class Control:
    """The memory.

    :param fd: of a memfd; made large enough if it is not
    :param processes: how many have a place of their own
    :param pages: of each file
    :param kinds: how many kinds of operations there are
    :param rights: how many rights there are to keep
    """

    def __init__(self, fd: int, processes: int, pages: list[int], kinds: int, rights: int) -> None:
        sizes = [
            2,  # stop, failures
            processes,  # process numbers
            processes,  # lives
            processes,  # pages verified
            processes * kinds,
            *pages,
            *pages,
            rights,
            rights,
            processes * LOG * _ENTRY_WORDS,
            processes * _TEXT_WORDS,
        ]
        size = sum(sizes) * 8
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
        words = memoryview(mmap.mmap(fd, size)).cast("Q")
        parts, at = [], 0
        for length in sizes:
            parts.append(words[at : at + length])
            at += length
        files = len(pages)
        self.flags, self.pids, self.lives, self.verified, self._counts = parts[:5]
        #: Versions of pages by file: the current ones, and the announced ones.
        self.current = parts[5 : 5 + files]
        self.announced = parts[5 + files : 5 + 2 * files]
        #: The same for rights.
        self.rights, self.announced_rights, log, texts = parts[5 + 2 * files :]
        self._kinds = kinds
        self._log = log.cast("B")
        self._texts = texts.cast("B")

    @property
    def stop(self) -> bool:
        """All processes are to end."""
        return bool(self.flags[0])

    def finish(self) -> None:
        """Have all processes end."""
        self.flags[0] = 1

    @property
    def failed(self) -> bool:
        """Somebody has found something wrong."""
        return bool(self.flags[1])

    def counts(self, process: int) -> memoryview:
        """How many operations a process has done, by kind; can be written."""
        return self._counts[process * self._kinds : (process + 1) * self._kinds]

    def begin(self, process: int, number: int, kind: int) -> int:
        """Record that an operation begins.

        :returns: where; for :meth:`note` and :meth:`end`
        """
        at = (process * LOG + number % LOG) * _ENTRY_WORDS * 8
        _ENTRY.pack_into(self._log, at, time.monotonic_ns(), number, kind, BEGUN, -1, -1, 0, 0, 0)
        return at

    def note(self, at: int, file: int, access: int, page: int, address: int, more: int) -> None:
        """Record what an operation is done with."""
        struct.pack_into("<hhQQQ", self._log, at + 20, file, access, page, address, more)

    def end(self, at: int, outcome: int) -> None:
        """Record how an operation ended."""
        struct.pack_into("<h", self._log, at + 18, outcome)

    def log(self, process: int) -> list[Entry]:
        """The last operations of a process, in order."""
        size = _ENTRY_WORDS * 8
        entries = [
            Entry(*_ENTRY.unpack_from(self._log, (process * LOG + number) * size)) for number in range(LOG)
        ]
        return sorted((entry for entry in entries if entry.time), key=lambda entry: entry.time)

    def fail(self, process: int, text: str) -> None:
        """Record what a process has found wrong."""
        size = _TEXT_WORDS * 8
        data = text.encode()[: size - 1] + b"\0"
        self._texts[process * size : process * size + len(data)] = data
        self.flags[1] += 1

    def failure(self, process: int) -> str:
        """What a process has found wrong; empty: nothing."""
        size = _TEXT_WORDS * 8
        data = bytes(self._texts[process * size : (process + 1) * size])
        return data[: data.index(b"\0")].decode(errors="replace")
