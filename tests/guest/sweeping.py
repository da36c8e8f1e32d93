# SPDX-License-Identifier: MIT
"""Sweeps of failing allocations: where guests are mapped, and what is looked at before and after."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import calls
import faultinject
from calls import GRANULE, MAP_FIXED_NOREPLACE, RW, SHARED_PT
from faultinject import Attempt

from held import sharing
from ptshare import counters

SIZE = 4 * GRANULE

#: Two addresses far from each other and from all else, so that a process has no table for them at any level.
HERE, THERE = 0x2000_0000_0000, 0x3000_0000_0000

Scene = Callable[[], AbstractContextManager[Attempt]]


def objects() -> dict[str, int]:
    """What mappings are made of; mappings and page tables (KiB) but for this process's own; pages locked."""
    counters.fold_per_cpu()
    tables = counters.page_tables_kib() - counters.process_tables().own_kib
    mlocked = re.search(r"^nr_mlock (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    assert mlocked is not None
    found = {**faultinject.kernel_objects(), "tables": tables, "locked pages": int(mlocked[1])}
    # The interpreter makes and ends some of its own; what is mapped where, each test compares.
    found["vm_area_struct"] -= Path("/proc/self/maps").read_text().count("\n")
    return found


def layout(*areas: int, length: int = 2 * SIZE) -> list[tuple[int, int, str, int]]:
    """What is mapped at ``areas``, neighbours that are alike taken together."""
    found: list[tuple[int, int, str, int]] = []
    for area in areas:
        for region in calls.regions(area, area + length):
            if found:
                start, end, access, offset = found[-1]
                if end == region.start and access == region.access and offset + end - start == region.offset:
                    found[-1] = (start, region.end, access, offset)
                    continue
            found.append((region.start, region.end, region.access, region.offset))
    return found


def clear(*areas: int, length: int = 2 * SIZE) -> None:
    for area in areas:
        calls.munmap(area, length)


def held() -> tuple[int, int]:
    now = sharing()
    return now.domains, now.guests


@contextmanager
def file_of(size: int = SIZE) -> Iterator[int]:
    """A file in memory; each granule begins with its number, from 1 on, and the rest of it are holes."""
    with calls.memfd(size) as fd:
        for number in range(min(size // GRANULE, 4)):
            os.pwrite(fd, bytes([number + 1]), number * GRANULE)
        yield fd


@contextmanager
def guests(size: int = SIZE, flags: int = SHARED_PT) -> Iterator[int]:
    """Two guests of one file, at HERE and THERE, with their links; the file."""
    with file_of(size) as fd:
        try:
            for area in (HERE, THERE):
                calls.mmap(size, RW, flags | MAP_FIXED_NOREPLACE, fd, addr=area)
                assert content(area) == [1, 2, 3, 4]
            yield fd
        finally:
            clear(HERE, THERE, length=max(size, 2 * SIZE))


def content(area: int) -> list[int | None]:
    return [calls.peek(area + number * GRANULE) for number in range(4)]
