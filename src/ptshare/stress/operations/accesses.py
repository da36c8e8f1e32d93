# SPDX-License-Identifier: MIT
"""Reading and writing pages in every way, and checking what they hold."""

import ctypes
import errno
import os
from collections.abc import Callable

from ptshare import syscalls
from ptshare.stress.content import ZEROS, is_zero
from ptshare.stress.memory import BYTES, WORDS
from ptshare.stress.operations import operation
from ptshare.stress.sequence import Draw
from ptshare.stress.setup import CLASSES
from ptshare.stress.worker import HOT_PAGES, Window, Worker, Wrong, looks
from ptshare.syscalls import GRANULE, NONE, PAGE, RW, X

Read = Callable[[Worker, Window, int], bytes | None]
Write = Callable[[Worker, Window, int, bytes], bool]

_GRANULE_PAGES = GRANULE // PAGE
_SWEEP = 64

_VERSION_WORD = 2


def _read(worker: Worker, draw: Draw, way: Read, safe: bool) -> bool | None:
    """Read a page of a window, and check it.

    :param safe: it does no harm if the page is beyond the end of the file
    """
    picked = worker.pick(draw, "pages")
    if picked is None:
        return False
    window, page = picked
    file = window.file
    # Without a lock others write meanwhile, which is the more interesting case.
    locked = draw.one_in(3) or (not safe and page >= file.tail)
    if locked and not worker.lock(file, page, 1, exclusive=False):
        return False
    before = worker.versions(file, page)
    size = file.pages if page < file.tail else worker.pages_of(file)
    try:
        if page >= size and not safe:
            return False
        worker.check(window, page, before, size, way(worker, window, page))
    finally:
        if locked:
            worker.unlock(file, page, 1)
    return None


@operation("read.load", 90)
def read_by_loads(worker: Worker, draw: Draw) -> bool | None:
    return _read(worker, draw, lambda _, w, page: bytes(BYTES[w.at(page) : w.at(page) + PAGE]), safe=False)


@operation("read.syscall", 60)
def read_by_call(worker: Worker, draw: Draw) -> bool | None:
    return _read(worker, draw, lambda me, w, page: me.ways.read_by_call(w.at(page), PAGE), safe=True)


@operation("read.gup", 25)
def read_by_gup(worker: Worker, draw: Draw) -> bool | None:
    return _read(worker, draw, lambda me, w, page: me.ways.read_by_gup(w.at(page), PAGE), safe=True)


@operation("read.mem", 10)
def read_by_mem(worker: Worker, draw: Draw) -> bool | None:
    return _read(worker, draw, lambda me, w, page: me.ways.read_by_mem(w.at(page), PAGE), safe=True)


@operation("read.file", 20)
def read_by_file(worker: Worker, draw: Draw) -> bool | None:
    return _read(worker, draw, lambda me, w, page: me.read_file(w.file, page), safe=True)


def _write(worker: Worker, draw: Draw, way: Write, safe: bool) -> bool | None:
    """Write the next version of a page through a window.

    :param safe: it does no harm if the page is beyond the end of the file
    """
    picked = worker.pick(draw, "pages", write=True)
    if picked is None:
        return False
    window, page = picked
    file = window.file
    if not worker.lock(file, page, 1, exclusive=True):
        return False
    try:
        worker.settle(file, page)
        size = file.pages if page < file.tail else worker.pages_of(file)
        before = worker.versions(file, page)
        if page >= size:
            if not safe:
                return False
            if way(worker, window, page, ZEROS) and not file.huge:
                raise Wrong(
                    f"a page beyond the end could be written: file {file.number} page {page} of {size}, "
                    f"at {window.at(page):#x}"
                )
            return None
        # Only now and then: what was read before is mapped, and a write to it another kind of fault.
        if draw.one_in(3):
            worker.check(window, page, before, size, bytes(BYTES[window.at(page) : window.at(page) + PAGE]))
        version = worker.announce(file, page, zero=False)
        if not way(worker, window, page, worker.content(file, page, version)):
            raise Wrong(
                f"a page cannot be written: file {file.number} ({file.name}) page {page} of {size}, "
                f"class {CLASSES[window.access].name}, at {window.at(page):#x}"
            )
        worker.declare(file, page)
    finally:
        worker.unlock(file, page, 1)
    return None


@operation("write.store", 90)
def write_by_stores(worker: Worker, draw: Draw) -> bool | None:
    def store(_: Worker, window: Window, page: int, data: bytes) -> bool:
        BYTES[window.at(page) : window.at(page) + PAGE] = data
        return True

    return _write(worker, draw, store, safe=False)


@operation("write.syscall", 60)
def write_by_call(worker: Worker, draw: Draw) -> bool | None:
    return _write(worker, draw, lambda me, w, page, data: me.ways.write_by_call(w.at(page), data), safe=True)


@operation("write.gup", 25)
def write_by_gup(worker: Worker, draw: Draw) -> bool | None:
    return _write(worker, draw, lambda me, w, page, data: me.ways.write_by_gup(w.at(page), data), safe=True)


@operation("write.mem", 10)
def write_by_mem(worker: Worker, draw: Draw) -> bool | None:
    return _write(worker, draw, lambda me, w, page, data: me.ways.write_by_mem(w.at(page), data), safe=True)


@operation("write.file", 15)
def write_by_file(worker: Worker, draw: Draw) -> bool | None:
    def write(me: Worker, window: Window, page: int, data: bytes) -> bool:
        return os.pwrite(me.descriptor(window.file), data, page * PAGE) == PAGE

    # Beyond the end it would make the file longer.
    return _write(worker, draw, write, safe=False)


@operation("watch.pages", 30)
def watch(worker: Worker, draw: Draw) -> bool | None:
    """Look at the most used pages of a window again and again: a change by others must be seen at once."""
    picked = worker.pick(draw, "pages")
    if picked is None:
        return False
    window, _ = picked
    file = window.file
    current, announced = worker.control.current[file.number], worker.control.announced[file.number]
    words = [
        (page, (window.at(page) >> 3) + _VERSION_WORD)
        for first in range(window.first_page, window.end_page, _GRANULE_PAGES)
        for page in range(first, first + HOT_PAGES)
    ]
    with worker.undisturbed():
        for _ in looks():
            for page, word in words:
                version = current[page]
                found = WORDS[word]
                if found == version or (found == 0 and is_zero(version)):
                    continue
                # The order matters: who changes the page announces it before and declares it after.
                if announced[page] == version and current[page] == version:
                    data = bytes(BYTES[window.at(page) : window.at(page) + PAGE])
                    raise Wrong(
                        f"version {found >> 8} was seen, {version >> 8} is current\n  "
                        + str(worker.wrong_page(window, page, version, file.pages, data))
                    )
    worker.control.verified[worker.number] += len(words)
    return None


@operation("read.sweep", 8)
def sweep(worker: Worker, draw: Draw) -> bool | None:
    """Check a run of pages."""
    picked = worker.pick(draw, "pages")
    if picked is None:
        return False
    window, first = picked
    file = window.file
    for page in range(first, min(first + _SWEEP, window.end_page, file.tail)):
        before = worker.versions(file, page)
        data = bytes(BYTES[window.at(page) : window.at(page) + PAGE])
        worker.check(window, page, before, file.pages, data)
    return None


@operation("execute", 12, "exec")
def execute(worker: Worker, draw: Draw) -> bool | None:
    """Call a page: it begins with a return."""
    found = [w for w in worker.windows if w.file.role == "pages" and CLASSES[w.access].prot & X]
    if not found:
        return False
    window = draw.choice(found)
    page = worker.page_in(draw, window)
    file = window.file
    worker.note(file.number, window.access, page, window.at(page), window.shared)
    if not worker.lock(file, page, 1, exclusive=False):
        return False
    try:
        current, announced = worker.versions(file, page)
        if current != announced or is_zero(current):
            return False
        ctypes.CFUNCTYPE(None)(window.at(page))()
    finally:
        worker.unlock(file, page, 1)
    return None


@operation("forbidden.write", 20)
def forbidden_write(worker: Worker, draw: Draw) -> bool | None:
    """Who opened a file for reading gains no right to write, in no way."""
    found = [w for w in worker.windows if w.file.role == "pages" and not CLASSES[w.access].write]
    if not found:
        return False
    window = draw.choice(found)
    page = worker.page_in(draw, window)
    address = window.at(page)
    worker.note(window.file.number, window.access, page, address, window.shared)
    # As if somebody had just written there.
    data = b"forbidden write!"
    ways = (worker.ways.write_by_call, worker.ways.write_by_gup, worker.ways.write_by_mem)
    way = draw.choice(ways)
    if draw.one_in(2) and page < window.file.tail:
        _ = WORDS[address >> 3]
    if way(address, data):
        raise Wrong(f"a mapping of class {CLASSES[window.access].name} was written to, by {way.__name__}")
    if window.shared and "shared" in worker.setup.features:
        prot = draw.choice((RW, NONE, RW | X))
        try:
            syscalls.mprotect(address, PAGE, prot)
        except OSError as error:
            if error.errno == errno.EACCES:
                return None
            raise
        raise Wrong(f"a mapping of class {CLASSES[window.access].name} was given protection {prot}")
    return None
