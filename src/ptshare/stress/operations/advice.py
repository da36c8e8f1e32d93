# SPDX-License-Identifier: MIT
"""madvise(2) and mlock(2)."""

import errno
import mmap

from ptshare import syscalls
from ptshare.stress.operations import operation
from ptshare.stress.sequence import Draw
from ptshare.stress.worker import Worker, Wrong
from ptshare.syscalls import GRANULE, MADV_COLLAPSE, MADV_POPULATE_READ, MADV_POPULATE_WRITE, PAGE

_COLD, _PAGEOUT = 20, 21


def _advise(worker: Worker, draw: Draw, advice: int, *allowed: int, most: int = 512) -> bool | None:
    """Advise a part of a window.

    :param most: pages
    :param allowed: errors that are no fault of the kernel
    """
    picked = worker.pick(draw, draw.choice(("pages", "pages", "storm")))
    if picked is None:
        return False
    window, page = picked
    pages = min(draw.choice((1, 4, 16, 16, 64, most)), window.end_page - page)
    try:
        syscalls.madvise(window.at(page), pages * PAGE, advice)
    except OSError as error:
        beyond = window.file.role == "storm" or page + pages > window.file.tail
        if error.errno not in allowed or (error.errno == errno.EFAULT and not beyond and window.writable):
            raise
    return None


@operation("advise.pageout", 30)
def pageout(worker: Worker, draw: Draw) -> bool | None:
    return _advise(worker, draw, _PAGEOUT, most=128)


@operation("advise.cold", 8)
def cold(worker: Worker, draw: Draw) -> bool | None:
    return _advise(worker, draw, _COLD)


@operation("advise.dontneed", 15)
def dontneed(worker: Worker, draw: Draw) -> bool | None:
    """Of a guest: its links go."""
    return _advise(worker, draw, mmap.MADV_DONTNEED)


@operation("advise.willneed", 5)
def willneed(worker: Worker, draw: Draw) -> bool | None:
    return _advise(worker, draw, mmap.MADV_WILLNEED)


@operation("advise.populate-read", 8)
def populate_read(worker: Worker, draw: Draw) -> bool | None:
    return _advise(worker, draw, MADV_POPULATE_READ, errno.EFAULT)


@operation("advise.populate-write", 8)
def populate_write(worker: Worker, draw: Draw) -> bool | None:
    """EINVAL: the mapping is not for writing."""
    return _advise(worker, draw, MADV_POPULATE_WRITE, errno.EFAULT, errno.EINVAL)


@operation("advise.whole", 6)
def whole(worker: Worker, draw: Draw) -> bool | None:
    """Advice that the kernel keeps with the mapping."""
    if not worker.windows:
        return False
    window = draw.choice(worker.windows)
    names = ("NORMAL", "RANDOM", "SEQUENTIAL", "DONTDUMP", "DODUMP", "NOHUGEPAGE")
    worker.note(window.file.number, window.access, 0, window.address, window.shared)
    syscalls.madvise(window.address, window.size, getattr(mmap, f"MADV_{draw.choice(names)}"))
    return None


@operation("advise.dontfork", 5)
def dontfork(worker: Worker, draw: Draw) -> bool | None:
    if not worker.windows:
        return False
    window = draw.choice(worker.windows)
    worker.note(window.file.number, window.access, 0, window.address, window.shared)
    window.inherited = not window.inherited
    advice = mmap.MADV_DOFORK if window.inherited else mmap.MADV_DONTFORK
    syscalls.madvise(window.address, window.size, advice)
    return None


@operation("advise.collapse", 10)
def collapse(worker: Worker, draw: Draw) -> bool | None:
    """Make huge pages of a file, by an ordinary mapping; a guest must refuse."""
    picked = worker.pick(draw, draw.choice(("pages", "storm")))
    if picked is None:
        return False
    window, page = picked
    guest = window.shared and "shared" in worker.setup.features
    start = page - page % (GRANULE // PAGE)
    if window.file.role == "pages" and start + GRANULE // PAGE > window.file.tail and not window.file.huge:
        return False
    try:
        syscalls.madvise(window.at(start), GRANULE, MADV_COLLAPSE)
    except OSError as error:
        # EINVAL: no huge pages in this file.
        expected = (errno.EINVAL,) if guest else (errno.EINVAL, errno.EAGAIN, errno.EBUSY, errno.ENOMEM)
        if error.errno in expected:
            return None
        raise
    if guest:
        raise Wrong("a guest took MADV_COLLAPSE")
    return None


@operation("lock", 3)
def lock(worker: Worker, draw: Draw) -> bool | None:
    """Lock whole granules in memory, and unlock them."""
    picked = worker.pick(draw, "pages")
    if picked is None:
        return False
    window, page = picked
    address = window.at(page - page % (GRANULE // PAGE))
    window.whole = False
    try:
        syscalls.mlock(address, GRANULE)
    except OSError as error:
        # Pages beyond the end of the file; the limit; a kernel that does not lock guests.
        if error.errno not in (errno.ENOMEM, errno.EAGAIN, errno.EPERM, errno.EOPNOTSUPP):
            raise
        if error.errno == errno.EOPNOTSUPP:
            return None
    syscalls.munlock(address, GRANULE)
    return None
