# SPDX-License-Identifier: MIT
"""Making, cutting, moving and ending mappings."""

import errno
import mmap
from collections.abc import Callable

from ptshare import syscalls
from ptshare.stress.memory import BYTES
from ptshare.stress.operations import operation
from ptshare.stress.sequence import Draw
from ptshare.stress.setup import CLASSES
from ptshare.stress.worker import MAX_WINDOWS, Window, Worker, Wrong
from ptshare.syscalls import (
    GIB,
    GRANULE,
    MADV_COLLAPSE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    NONE,
    PAGE,
    RW,
    R,
)

_ORDINARY_CLASSES = (0, 1)
_GRANULE_PAGES = GRANULE // PAGE
_HINTS = 0x10_0000_0000_00


def reserve(size: int, align: int = GRANULE) -> int:
    """An address at which nothing but this reservation is mapped: PROT_NONE, to be mapped over."""
    at = syscalls.mmap(size + align, NONE, MAP_PRIVATE | MAP_ANONYMOUS)
    start = (at + align - 1) // align * align
    if start > at:
        syscalls.munmap(at, start - at)
    if at + align > start:
        syscalls.munmap(start + size, at + align - start)
    return start


def _place(worker: Worker, draw: Draw) -> tuple[int, int, int, int] | None:
    """What to map: number of a file, access class, first granule, granules. ``None``: no room for another."""
    if len(worker.windows) >= MAX_WINDOWS:
        return None
    file = draw.choice([file for file in worker.files if file.role != "guard"])
    classes = [
        number
        for number, kind in enumerate(CLASSES)
        if "exec" in worker.setup.features or not kind.prot & mmap.PROT_EXEC
    ]
    # Most of them can write, or readers would have nothing to look at.
    access = 0 if draw.one_in(2) else draw.choice(classes)
    start = draw.below(file.granules)
    # One more: it may reach beyond the end of the file.
    granules = draw.between(1, file.granules - start + 1) if draw.one_in(2) else file.granules - start
    return file.number, access, start, granules


def _attach(
    worker: Worker, draw: Draw, make: Callable[[int, int, int, int], Window], huge: bool = False
) -> bool | None:
    place = _place(worker, draw)
    if place is None:
        return False
    number, access, start, granules = place
    if huge:
        start, granules = 0, draw.choice((512, 513, 1024))
    worker.note(number, access, start * _GRANULE_PAGES, 0, granules)
    window = make(number, access, start, granules)
    worker.windows.append(window)
    worker.note(number, access, start * _GRANULE_PAGES, window.address, granules)
    return None


@operation("attach.anywhere", 30)
def attach(worker: Worker, draw: Draw) -> bool | None:
    fresh = draw.one_in(2)

    def make(number: int, access: int, start: int, granules: int) -> Window:
        return worker.map(worker.files[number], access, start, granules, fresh=fresh)

    return _attach(worker, draw, make)


@operation("attach.hint", 6)
def attach_at_hint(worker: Worker, draw: Draw) -> bool | None:
    hint = _HINTS + draw.below(1 << 18) * GRANULE + draw.choice((0, PAGE))

    def make(number: int, access: int, start: int, granules: int) -> Window:
        return worker.map(worker.files[number], access, start, granules, address=hint)

    return _attach(worker, draw, make)


@operation("attach.populate", 6)
def attach_populated(worker: Worker, draw: Draw) -> bool | None:
    def make(number: int, access: int, start: int, granules: int) -> Window:
        return worker.map(worker.files[number], access, start, granules, flags=MAP_POPULATE)

    return _attach(worker, draw, make)


@operation("attach.fixed", 8)
def attach_fixed(worker: Worker, draw: Draw) -> bool | None:
    def make(number: int, access: int, start: int, granules: int) -> Window:
        at = reserve(granules * GRANULE)
        return worker.map(worker.files[number], access, start, granules, address=at, flags=MAP_FIXED)

    return _attach(worker, draw, make)


@operation("attach.noreplace", 4)
def attach_noreplace(worker: Worker, draw: Draw) -> bool | None:
    """MAP_FIXED_NOREPLACE, also where it must be refused."""
    wrongly = draw.one_in(4) and bool(worker.windows)
    if wrongly:
        window = draw.choice(worker.windows)
        worker.note(window.file.number, window.access, 0, window.address, window.granules)
        try:
            worker.map(window.file, 0, 0, 1, address=window.address, flags=MAP_FIXED_NOREPLACE)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return None
            raise
        raise Wrong(f"MAP_FIXED_NOREPLACE replaced the window at {window.address:#x}")

    def make(number: int, access: int, start: int, granules: int) -> Window:
        at = reserve(granules * GRANULE)
        syscalls.munmap(at, granules * GRANULE)
        return worker.map(
            worker.files[number], access, start, granules, address=at, flags=MAP_FIXED_NOREPLACE
        )

    return _attach(worker, draw, make)


@operation("attach.over-ordinary", 12)
def attach_over_ordinary(worker: Worker, draw: Draw) -> bool | None:
    """MAP_FIXED over an ordinary mapping of the same part of the file, some of whose pages are present."""
    pages = [draw.below(1 << 12) for _ in range(8)]

    def make(number: int, access: int, start: int, granules: int) -> Window:
        file = worker.files[number]
        at = reserve(granules * GRANULE)
        own = worker.map(file, 1, start, granules, address=at, flags=MAP_FIXED, shared=False)
        touched = [own.first_page + page % (own.end_page - own.first_page) for page in pages]
        for page in touched:
            if file.role == "pages":
                before = worker.versions(file, page)
                size = worker.pages_of(file)
                worker.check(own, page, before, size, worker.ways.read_by_call(own.at(page), PAGE))
            else:
                worker.ways.read_by_call(own.at(page), PAGE)
        return worker.map(file, access, start, granules, address=at, flags=MAP_FIXED)

    return _attach(worker, draw, make)


@operation("attach.gigabytes", 5)
def attach_gigabytes(worker: Worker, draw: Draw) -> bool | None:
    """A window of a GiB and more, that is linked as a whole; the file is at its start."""
    fixed = draw.one_in(2)

    def make(number: int, access: int, start: int, granules: int) -> Window:
        at = reserve(granules * GRANULE, GIB) if fixed else 0
        flags = MAP_FIXED if fixed else 0
        return worker.map(worker.files[number], access, start, granules, address=at, flags=flags)

    return _attach(worker, draw, make, huge=True)


@operation("attach.ordinary", 12)
def attach_ordinary(worker: Worker, draw: Draw) -> bool | None:
    """With page tables of the process's own, at an address where it can have huge pages."""

    def make(number: int, access: int, start: int, granules: int) -> Window:
        at = reserve(granules * GRANULE)
        access = access if access in _ORDINARY_CLASSES else 0
        return worker.map(
            worker.files[number], access, start, granules, address=at, flags=MAP_FIXED, shared=False
        )

    return _attach(worker, draw, make)


@operation("attach.again", 8)
def attach_again(worker: Worker, draw: Draw) -> bool | None:
    """MAP_FIXED over a window: another file or part in its place."""
    if not worker.windows:
        return False
    old = draw.choice(worker.windows)
    worker.windows.remove(old)
    place = _place(worker, draw)
    worker.windows.append(old)
    if place is None:
        return False
    number, access, start, _ = place
    worker.note(number, access, start * _GRANULE_PAGES, old.address, old.granules)
    new = worker.map(worker.files[number], access, start, old.granules, address=old.address, flags=MAP_FIXED)
    worker.windows[worker.windows.index(old)] = new
    return None


@operation("detach", 30)
def detach(worker: Worker, draw: Draw) -> bool | None:
    if not worker.windows:
        return False
    window = worker.windows.pop(draw.below(len(worker.windows)))
    worker.note(window.file.number, window.access, window.first_page, window.address, window.granules)
    syscalls.munmap(window.address, window.size)
    if worker.ways.read_by_call(window.address, PAGE) is not None:
        raise Wrong(f"what was unmapped at {window.address:#x} can be read")
    return None


def _without(window: Window, first: int, granules: int) -> list[Window]:
    """What is left of a window without some granules of it."""
    left = []
    for start, end in ((0, first), (first + granules, window.granules)):
        # Nothing of the file lies behind its end.
        if start < end and window.start + start < window.file.granules:
            left.append(
                Window(
                    window.file,
                    window.access,
                    window.address + start * GRANULE,
                    window.start + start,
                    end - start,
                    window.shared,
                    window.inherited,
                    window.whole,
                )
            )
        elif start < end:
            syscalls.munmap(window.address + start * GRANULE, (end - start) * GRANULE)
    return left


def _part(worker: Worker, draw: Draw) -> tuple[Window, int, int] | None:
    """A window, and granules of it: the first, and how many."""
    found = [window for window in worker.windows if window.granules > 1]
    if not found or len(worker.windows) >= MAX_WINDOWS + 4:
        return None
    window = draw.choice(found)
    first = draw.below(min(window.granules, window.file.granules + 1))
    granules = draw.choice((1, 1, 2, window.granules - first))
    granules = min(granules, window.granules - first)
    worker.note(window.file.number, window.access, window.first_page, window.address, first << 32 | granules)
    return window, first, granules


@operation("detach.part", 15)
def detach_part(worker: Worker, draw: Draw) -> bool | None:
    part = _part(worker, draw)
    if part is None:
        return False
    window, first, granules = part
    worker.windows.remove(window)
    syscalls.munmap(window.address + first * GRANULE, granules * GRANULE)
    worker.windows += _without(window, first, granules)
    return None


@operation("detach.map-over", 8)
def detach_by_mapping(worker: Worker, draw: Draw) -> bool | None:
    """Private memory over a part: it is that of this process alone."""
    part = _part(worker, draw)
    if part is None:
        return False
    window, first, granules = part
    worker.windows.remove(window)
    at = window.address + first * GRANULE
    syscalls.mmap(granules * GRANULE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, addr=at)
    if any(BYTES[at : at + PAGE]):
        raise Wrong(f"new private memory at {at:#x} is not zeros")
    BYTES[at : at + 8] = b"private!"
    syscalls.munmap(at, granules * GRANULE)
    worker.windows += _without(window, first, granules)
    return None


def _remapped(worker: Worker, window: Window, address: int, granules: int) -> None:
    if address % GRANULE and "shared" in worker.setup.features and window.shared:
        raise Wrong(f"mremap returned {address:#x}, which is no multiple of the granule")
    window.address, window.granules = address, granules


def _note(worker: Worker, window: Window, granules: int) -> None:
    worker.note(
        window.file.number,
        window.access,
        window.first_page,
        window.address,
        window.granules << 32 | granules,
    )


@operation("mremap.move", 15)
def move(worker: Worker, draw: Draw) -> bool | None:
    """To an address of our choice, over what is there."""
    found = [window for window in worker.windows if window.whole]
    if not found:
        return False
    window = draw.choice(found)
    old = window.address
    _note(worker, window, window.granules)
    target = reserve(window.size, GIB if window.granules >= 512 and draw.one_in(2) else GRANULE)
    at = syscalls.mremap(old, window.size, window.size, MREMAP_MAYMOVE | MREMAP_FIXED, target)
    _remapped(worker, window, at, window.granules)
    if worker.ways.read_by_call(old, PAGE) is not None:
        raise Wrong(f"what was moved from {old:#x} to {at:#x} can be read at its old address")
    return None


@operation("mremap.grow", 8)
def grow(worker: Worker, draw: Draw) -> bool | None:
    found = [window for window in worker.windows if window.granules < 1024 and window.whole]
    if not found:
        return False
    window = draw.choice(found)
    granules = window.granules + draw.choice((1, 2, 4))
    _note(worker, window, granules)
    at = syscalls.mremap(window.address, window.size, granules * GRANULE, MREMAP_MAYMOVE)
    _remapped(worker, window, at, granules)
    return None


@operation("mremap.shrink", 8)
def shrink(worker: Worker, draw: Draw) -> bool | None:
    found = [window for window in worker.windows if window.granules > 1 and window.whole]
    if not found:
        return False
    window = draw.choice(found)
    granules = draw.between(1, min(window.granules - 1, 8))
    _note(worker, window, granules)
    at = syscalls.mremap(window.address, window.size, granules * GRANULE, 0)
    _remapped(worker, window, at, granules)
    return None


@operation("mremap.duplicate", 4)
def duplicate(worker: Worker, draw: Draw) -> bool | None:
    """An old length of 0 maps the same again."""
    found = [window for window in worker.windows if window.whole]
    if not found or len(worker.windows) >= MAX_WINDOWS:
        return False
    window = draw.choice(found)
    _note(worker, window, window.granules)
    at = syscalls.mremap(window.address, 0, window.size, MREMAP_MAYMOVE)
    twin = Window(window.file, window.access, at, window.start, window.granules, window.shared)
    # Whatever was advised stays with the copy.
    twin.inherited = window.inherited
    worker.windows.append(twin)
    return None


@operation("refused", 20, "shared")
def refused(worker: Worker, draw: Draw) -> bool | None:
    """What takes a part of a granule, or is not for guests, fails, and leaves all as it was."""
    found = [window for window in worker.windows if window.shared and window.file.role == "pages"]
    if not found:
        return False
    window = draw.choice(found)
    at, fd = window.address, worker.descriptor(window.file)
    anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
    flags = worker.setup.flags
    calls: list[Callable[[], object]] = [
        lambda: syscalls.munmap(at + PAGE, PAGE),
        lambda: syscalls.munmap(at, window.size - PAGE),
        lambda: syscalls.mmap(PAGE, RW, anonymous, addr=at + GRANULE - PAGE),
        lambda: syscalls.mmap(GRANULE + PAGE, RW, anonymous, addr=at + PAGE),
        lambda: syscalls.mmap(GRANULE + PAGE, R, flags, fd),
        lambda: syscalls.mmap(GRANULE, R, flags, fd, PAGE),
        lambda: syscalls.mmap(GRANULE, R, flags | MAP_FIXED, fd, 0, at + PAGE),
        lambda: syscalls.mmap(GRANULE, R, MAP_PRIVATE | flags & ~mmap.MAP_SHARED, fd),
        lambda: syscalls.mremap(at, GRANULE, PAGE, 0),
        lambda: syscalls.mremap(at, PAGE, 2 * GRANULE, MREMAP_MAYMOVE),
        lambda: syscalls.mremap(at + PAGE, GRANULE, GRANULE, MREMAP_MAYMOVE),
        lambda: syscalls.madvise(at, GRANULE, MADV_COLLAPSE),
        lambda: syscalls.madvise(at, GRANULE, mmap.MADV_HUGEPAGE),
    ]
    which = draw.below(len(calls))
    worker.note(window.file.number, window.access, window.first_page, at, which)
    try:
        calls[which]()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    else:
        raise Wrong(f"bad call {which} on the guest at {at:#x} of {window.granules} granules was not refused")
    page = window.first_page
    before = worker.versions(window.file, page)
    if page < window.file.tail:
        worker.check(window, page, before, window.file.pages, worker.ways.read_by_call(at, PAGE))
    return None
