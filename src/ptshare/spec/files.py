# SPDX-License-Identifier: MIT
"""Files and their pages in the page cache, and the frames of memory that they are in."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from ptshare.spec.entries import PAGE

__all__ = ["File", "Memory", "OpenFile", "Run"]


@dataclass
class Memory:
    """Physical memory. A frame that was freed is not used again, so that nobody takes it for another."""

    next_frame: int = 1

    def take(self, count: int) -> int:
        """So many frames, one after the other; the first one."""
        first = self.next_frame
        self.next_frame += count
        return first


@dataclass(frozen=True)
class Run:
    """Pages of a file that follow each other, in frames that do.

    :param page: the first one, counted from the file's begin
    """

    page: int
    count: int
    frame: int

    @property
    def end(self) -> int:
        """The page after its last one."""
        return self.page + self.count


@dataclass
class File:
    """A file.

    :param size: bytes
    :param runs: pages that are in memory, in order
    :param written: pages that are not all zeros -> what stands in them
    :param dirty: pages whose memory the disk does not have yet
    :param sealed_write: F_SEAL_WRITE or F_SEAL_FUTURE_WRITE: no new mapping may write to it
    :param sealed_shrink: F_SEAL_SHRINK
    :param sealed_grow: F_SEAL_GROW
    :param kind: "page cache"; what has no pages there is "hugetlb", "dax" or "device"
    :param unlinked: it has no name any more
    :param forgotten: how often content was cut off or punched out
    :param anonymous: shared anonymous memory, which goes with its last mapping
    """

    name: str
    size: int
    memory: Memory
    runs: list[Run] = field(default_factory=list)
    written: dict[int, int] = field(default_factory=dict)
    dirty: set[int] = field(default_factory=set)
    sealed_write: bool = False
    sealed_shrink: bool = False
    sealed_grow: bool = False
    kind: str = "page cache"
    unlinked: bool = False
    anonymous: bool = False
    forgotten: int = 0

    @property
    def pages(self) -> int:
        """Pages that an access does not get SIGBUS for."""
        return -(-self.size // PAGE)

    def frame(self, page: int) -> int | None:
        """The frame that a page is in; ``None``: it is not in memory."""
        at = bisect_right(self.runs, page, key=lambda run: run.page) - 1
        if at < 0 or page >= self.runs[at].end:
            return None
        return self.runs[at].frame + page - self.runs[at].page

    def bring_in(self, first: int, count: int) -> list[Run]:
        """Have pages in memory, as far as the file goes; those parts of runs that they are."""
        end = min(first + count, self.pages)
        for start, stop in list(self._missing(first, end)):
            self.runs.append(Run(start, stop - start, self.memory.take(stop - start)))
        self.runs.sort(key=lambda run: run.page)
        self._join()
        return list(self._within(first, end))

    def drop(self, first: int, end: int) -> None:
        """Take pages out of memory; their frames are free."""
        kept = []
        for run in self.runs:
            if run.page < first:
                kept.append(Run(run.page, min(run.count, first - run.page), run.frame))
            if run.end > end:
                skip = max(0, end - run.page)
                kept.append(Run(run.page + skip, run.count - skip, run.frame + skip))
        self.runs = [run for run in kept if run.count > 0]

    def forget(self, first: int, end: int) -> None:
        """Pages whose content is gone, too: cut off, or punched out."""
        self.forgotten += 1
        self.drop(first, end)
        for page in [page for page in self.written if first <= page < end]:
            del self.written[page]
        self.dirty = {page for page in self.dirty if not first <= page < end}

    def _missing(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        at = first
        for run in self._within(first, end):
            if run.page > at:
                yield at, run.page
            at = run.end
        if at < end:
            yield at, end

    def _within(self, first: int, end: int) -> Iterator[Run]:
        for run in self.runs:
            low, high = max(first, run.page), min(end, run.end)
            if low < high:
                yield Run(low, high - low, run.frame + low - run.page)

    def _join(self) -> None:
        joined: list[Run] = []
        for run in self.runs:
            if joined and joined[-1].end == run.page and joined[-1].frame + joined[-1].count == run.frame:
                joined[-1] = Run(joined[-1].page, joined[-1].count + run.count, joined[-1].frame)
            else:
                joined.append(run)
        self.runs = joined


@dataclass(frozen=True)
class OpenFile:
    """A file as a process has opened it.

    :param no_execute: it is on a mount with noexec
    :param readable: it was opened for reading, too
    :param stranger: the process neither owns the file nor may write to it, however it was opened
    """

    file: File
    writable: bool = True
    no_execute: bool = False
    readable: bool = True
    stranger: bool = False
