# SPDX-License-Identifier: MIT
"""What each process of the demo does."""

import errno
import mmap
import os
import time

from ptshare import counters
from ptshare.demo.files import Target
from ptshare.mapping import Asked, Mapping

__all__ = ["REHEARSAL_BYTES", "Worker", "touch"]

#: Size of the file on which a process rehearses.
REHEARSAL_BYTES = 4 << 20

#: Bytes whose pages are touched by one slice: its result, a byte a page, stays small enough for memory in
#: use already.
_STRIDE = 64 << 20


class Worker:
    """A process that maps the file and uses it.

    :param target: the file
    :param page_tables: how to map it
    :param rehearsal: descriptor of another file, of :data:`REHEARSAL_BYTES`
    """

    #: In how many pages, spread over the file, a write is tried.
    PROBES = 16

    def __init__(self, target: Target, page_tables: Asked, rehearsal: int) -> None:
        self._target = target
        self._page_tables = page_tables
        self._rehearsal = rehearsal
        self._zeros = os.open("/dev/zero", os.O_RDONLY)

    def rehearse(self) -> None:
        """Do everything once with another file: later neither code nor heap of this process is touched for
        the first time.
        """
        real, self._target = self._target, Target("memfd", self._rehearsal, REHEARSAL_BYTES, writable=True)
        self.map_and_touch()
        self.touch_again()
        self.count_writable()
        self.protect("r+")
        self._mapping.close()
        self._target = real

    def map_and_touch(self) -> dict[str, float]:
        """Map the whole file and read from every page.

        :returns: ``seconds`` for both, ``faults`` taken by both, ``own_kib`` of page tables that this
            process got by it
        """
        own = counters.process_tables().own_kib
        faults = counters.minor_faults()
        start = time.perf_counter()
        self._mapping = Mapping(
            self._target.file,
            "r+" if self._target.writable else "r",
            length=self._target.size,
            page_tables=self._page_tables,
        )
        touch(self._mapping)
        seconds = time.perf_counter() - start
        faults = counters.minor_faults() - faults
        own = counters.process_tables().own_kib - own
        return {"seconds": seconds, "faults": faults, "own_kib": own}

    def touch_again(self) -> int:
        """Read from every page.

        :returns: faults taken
        """
        faults = counters.minor_faults()
        touch(self._mapping)
        return counters.minor_faults() - faults

    def protect(self, mode: str) -> float:
        """Call ``Mapping.protect``.

        :returns: seconds that it took
        """
        start = time.perf_counter()
        self._mapping.protect(mode)  # type: ignore[arg-type]
        return time.perf_counter() - start

    def count_writable(self) -> int:
        """In how many of :data:`PROBES` pages this process may write.

        The write is the kernel's, by read(2) from /dev/zero: it fails with EFAULT where one of the
        program's own would be a SIGSEGV.
        """
        return sum(self._writable(self._target.size * page // self.PROBES) for page in range(self.PROBES))

    def _writable(self, at: int) -> bool:
        at -= at % mmap.PAGESIZE
        with memoryview(self._mapping) as view, view[at : at + 1] as byte:
            try:
                return os.readv(self._zeros, [byte]) == 1
            except OSError as error:
                if error.errno == errno.EFAULT:
                    return False
                raise


def touch(mapping: mmap.mmap) -> None:
    """Read a byte of every page."""
    for start in range(0, len(mapping), _STRIDE):
        mapping[start : start + _STRIDE : mmap.PAGESIZE]
