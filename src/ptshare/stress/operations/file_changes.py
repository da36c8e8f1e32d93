# SPDX-License-Identifier: MIT
"""What acts on a file, so on all who have it mapped: holes, truncation, writing back."""

import ctypes
import mmap
import os

from ptshare import syscalls
from ptshare.stress.files import TAIL_PAGES
from ptshare.stress.operations import operation
from ptshare.stress.sequence import Draw
from ptshare.stress.worker import Worker, Wrong
from ptshare.syscalls import PAGE

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 0x10


def _fallocate(fd: int, mode: int, page: int, pages: int) -> None:
    syscalls.checked(
        syscalls.libc.fallocate(fd, mode, ctypes.c_int64(page * PAGE), ctypes.c_int64(pages * PAGE))
    )


def punch_hole(fd: int, page: int, pages: int) -> None:
    """fallocate(2): punch a hole."""
    _fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, page, pages)


def _punch(worker: Worker, draw: Draw, advise: bool) -> bool | None:
    picked = worker.pick(draw, "pages", write=advise)
    if picked is None:
        return False
    window, page = picked
    file = window.file
    pages = min(draw.choice((1, 1, 2, 3, 8, 32)), window.end_page - page)
    if not worker.lock(file, page, pages, exclusive=True):
        return False
    try:
        for number in range(page, page + pages):
            worker.settle(file, number)
            worker.announce(file, number, zero=True)
        if advise:
            syscalls.madvise(window.at(page), pages * PAGE, mmap.MADV_REMOVE)
        else:
            punch_hole(worker.descriptor(file), page, pages)
        for number in range(page, page + pages):
            worker.declare(file, number)
    finally:
        worker.unlock(file, page, pages)
    return None


@operation("punch.fallocate", 30)
def punch_by_fallocate(worker: Worker, draw: Draw) -> bool | None:
    return _punch(worker, draw, advise=False)


@operation("punch.madvise", 20)
def punch_by_madvise(worker: Worker, draw: Draw) -> bool | None:
    """MADV_REMOVE"""
    return _punch(worker, draw, advise=True)


@operation("truncate", 12)
def truncate(worker: Worker, draw: Draw) -> bool | None:
    """Take the last pages of a file away, or give them back."""
    files = [file for file in worker.files if file.role == "pages"]
    file = draw.choice(files)
    size = draw.between(file.tail, file.pages) if draw.one_in(2) else file.pages
    worker.note(file.number, page=size)
    if not worker.lock(file, file.tail, TAIL_PAGES, exclusive=True, wait=True):
        return False
    try:
        for page in range(file.tail, file.pages):
            worker.settle(file, page)
        # The pages that go, or come.
        before = worker.pages_of(file)
        if before < file.tail:
            # To announce the lost pages as zeros would hide that somebody has lost them.
            raise Wrong(f"file {file.number} ({file.name}) has {before} pages: nobody cuts below {file.tail}")
        changed = range(min(size, before), max(size, before))
        for page in changed:
            worker.announce(file, page, zero=True)
        os.ftruncate(worker.descriptor(file), size * PAGE)
        for page in changed:
            worker.declare(file, page)
    finally:
        worker.unlock(file, file.tail, TAIL_PAGES)
    return None


@operation("sync.fsync", 4)
def fsync(worker: Worker, draw: Draw) -> bool | None:
    file = draw.choice(worker.files)
    worker.note(file.number)
    os.fsync(worker.descriptor(file))
    return None


@operation("sync.range", 8)
def sync_range(worker: Worker, draw: Draw) -> bool | None:
    """Write back a part of a file, and have its pages dropped: what was not written back is lost now."""
    picked = worker.pick(draw, "pages")
    if picked is None:
        return False
    window, page = picked
    fd = worker.descriptor(window.file)
    pages = draw.choice((1, 8, 64))
    wait_before, write, wait_after = 1, 2, 4
    syscalls.checked(
        syscalls.libc.sync_file_range(
            fd, ctypes.c_int64(page * PAGE), ctypes.c_int64(pages * PAGE), wait_before | write | wait_after
        )
    )
    os.posix_fadvise(fd, page * PAGE, pages * PAGE, os.POSIX_FADV_DONTNEED)
    return None


@operation("sync.msync", 10)
def msync(worker: Worker, draw: Draw) -> bool | None:
    picked = worker.pick(draw, "pages")
    if picked is None:
        return False
    window, page = picked
    pages = min(draw.choice((1, 8, 64)), window.end_page - page)
    asynchronous, synchronous = 1, 4
    syscalls.checked(
        syscalls.libc.msync(
            syscalls.size_t(window.at(page)),
            syscalls.size_t(pages * PAGE),
            draw.choice((asynchronous, synchronous)),
        )
    )
    return None
