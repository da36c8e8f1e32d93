# SPDX-License-Identifier: MIT
"""The demo in order: may it run here, the files, the runs, the judgement."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from ptshare import counters
from ptshare.demo import files
from ptshare.demo.errors import CannotRunError
from ptshare.demo.files import Target
from ptshare.demo.measure import Run, measure
from ptshare.demo.proof import MIN_BYTES, shortcomings
from ptshare.demo.report import Results
from ptshare.mapping import Mapping
from ptshare.sizes import format_bytes
from ptshare.support import Support, probe

__all__ = ["check", "check_size", "needed_bytes", "run"]

#: Memory of one process of the demo: a Python that was forked, and the kernel's part of it.
_PROCESS_BYTES = 4 << 20

_RESERVE_BYTES = 64 << 20


def needed_bytes(size: int, processes: int) -> int:
    """Memory that the demo takes at most: the file in the page cache, a table entry of 8 bytes a page and
    process.
    """
    return size + processes * (size // 512 + _PROCESS_BYTES) + _RESERVE_BYTES


def check(size: int, processes: int, file: Path | None) -> tuple[Support, int]:
    """May the demo run here?

    :param size: bytes, if ``file`` is ``None``
    :returns: what the kernel offers, and the bytes that will be mapped
    :raises CannotRunError: it may not
    """
    support = probe()
    if not support.supported:
        raise CannotRunError(
            f"page tables cannot be shared: {support.reason}; ./demo boots a kernel that can"
        )
    if file is not None:
        size = files.own_size(file)
        _try(file)
    elif os.geteuid() != 0:
        raise CannotRunError(
            "mounting an ext4 and a tmpfs needs root: run as root, or map a file with --file"
        )
    check_size(size)
    needed, available = needed_bytes(size, processes), counters.mem_available_kib() * 1024
    if needed > available:
        raise CannotRunError(
            f"{processes} processes x {format_bytes(size)} need about {format_bytes(needed)} of memory, "
            f"{format_bytes(available)} are available: use a smaller --size or fewer --processes"
        )
    return support, size


def check_size(size: int) -> None:
    """Is a file of ``size`` bytes large enough?

    :raises CannotRunError: it is not
    """
    if size < MIN_BYTES:
        raise CannotRunError(
            f"{format_bytes(size)} are too few to tell tables apart: map {format_bytes(MIN_BYTES)} at least"
        )


def _try(file: Path) -> None:
    """Map the first granule, without a touch."""
    try:
        Mapping(file, length=1).close()
    except OSError as error:
        raise CannotRunError(f"--file {file} cannot be mapped: {error.strerror}") from None


def run(size: int, processes: int, file: Path | None, on_run: Callable[[Run, Run | None], None]) -> Results:
    """The whole demo.

    :param size: bytes of the files that are made
    :param file: a file of the user's own to be mapped in the place of those
    :param on_run: called after each run with it, and with the ordinary run of the same file if it is a
        shared one
    :raises CannotRunError: it cannot be done here
    :raises ProcessFailedError: a process died, or could not do its part
    """
    support, size = check(size, processes, file)
    runs: list[Run] = []
    for making in _makers(size, file):
        with making as target:
            ordinary = measure(target, "ordinary", processes)
            on_run(ordinary, None)
            shared = measure(target, "shared", processes)
            on_run(shared, ordinary)
        runs += [ordinary, shared]
    return Results(
        kernel=os.uname().release,
        granule=support.granule,
        runs=tuple(runs),
        shortcomings=tuple(shortcomings(runs, support.granule)),
    )


def _makers(size: int, file: Path | None) -> Iterator[AbstractContextManager[Target]]:
    if file is not None:
        yield files.own_file(file)
        return
    yield files.ext4_file(size)
    yield files.tmpfs_file(size)
