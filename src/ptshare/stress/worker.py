# SPDX-License-Identifier: MIT
"""A process of a run: it draws operations and does them until it is told to end, or finds something wrong."""

import errno
import faulthandler
import fcntl
import itertools
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from ptshare import syscalls
from ptshare.stress import content
from ptshare.stress.control import DONE, SKIPPED, Control
from ptshare.stress.files import File
from ptshare.stress.memory import Ways
from ptshare.stress.operations import kinds
from ptshare.stress.sequence import Draw, Drawer
from ptshare.stress.setup import CLASSES, GUARDED, Setup
from ptshare.syscalls import GRANULE, MAP_FIXED, MAP_SHARED, PAGE, W

__all__ = ["FAILED", "MAX_WINDOWS", "Window", "Worker", "Wrong", "live", "looks", "make_control"]

#: Exit status of a process that found something wrong.
FAILED = 3

#: Windows that a process has at most, beside those on the guarded file.
MAX_WINDOWS = 10

#: How many it makes at the start of its life, to have something to work on.
_FIRST_WINDOWS = 4

#: Seconds that a process watches something, how often it looks at it at least, and seconds at most.
_WATCH, _LOOKS, _WATCH_AT_MOST = 0.015, 30, 0.3

_GRANULE_PAGES = GRANULE // PAGE
#: Pages at the start of each granule that are used more than others.
HOT_PAGES = 8

#: Processes that may keep a processor at the same time, and the bytes of the file of locks for that.
_UNDISTURBED = 2
_UNDISTURBED_LOCKS = 1 << 41

_PR_SET_PDEATHSIG = 1


class Wrong(Exception):
    """Something that must not be. The message says what."""


@dataclass(slots=True, eq=False)
class Window:
    """A mapping of a part of a file.

    :param access: number of the access class
    :param start: granule of the file that it begins with
    :param granules: how many it is long, perhaps beyond the end of the file
    :param shared: with shared page tables, if that is what is tried
    :param inherited: a forked child has it, too
    :param whole: the kernel has it in one piece, as mremap wants it; what was advised for a part cuts it
    """

    file: File
    access: int
    address: int
    start: int
    granules: int
    shared: bool = True
    inherited: bool = True
    whole: bool = True

    @property
    def size(self) -> int:
        """Bytes."""
        return self.granules * GRANULE

    @property
    def writable(self) -> bool:
        """It is mapped for writing."""
        return bool(CLASSES[self.access].prot & W)

    @property
    def first_page(self) -> int:
        """Its first page, in the file."""
        return self.start * _GRANULE_PAGES

    @property
    def end_page(self) -> int:
        """The page of the file behind its last one."""
        return min((self.start + self.granules) * _GRANULE_PAGES, self.file.pages)

    def at(self, page: int) -> int:
        """The address of a page of the file."""
        return self.address + (page - self.first_page) * PAGE


def looks() -> Iterator[None]:
    """As many looks as a watch takes: some milliseconds, more where the processor is slow."""
    start = time.monotonic()
    for number in itertools.count():
        yield
        seconds = time.monotonic() - start
        if (seconds > _WATCH and number > _LOOKS) or seconds > _WATCH_AT_MOST:
            return


class Worker:
    """A process, its mappings, and what all operations need.

    :param number: the process's place in the control memory
    """

    def __init__(self, setup: Setup, control: Control, number: int) -> None:
        self.setup = setup
        self.control = control
        self.number = number
        self.ways = Ways()
        self.windows: list[Window] = []
        #: By access class: where the guarded file is mapped.
        self.guards: dict[int, int] = {}
        self.guarded = next((file for file in setup.files if file.role == "guard"), None)
        #: The child that was forked and may not be gone yet.
        self.child = 0
        self.files = setup.files
        self._descriptors = [file.open(write=True) for file in setup.files]
        self._readers = [file.open(write=False) for file in setup.files]
        self._kinds = kinds()
        self._attach = [kind.name for kind in self._kinds].index("attach.anywhere")
        self._entry = 0
        #: Number of the operation that is under way.
        self.operation = 0

    # Life

    def work(self, sequence: str, operations: int | None = None) -> None:
        """Draw operations and do them.

        :param sequence: what the numbers follow from
        :param operations: how many, for a child; default: until the run ends
        """
        child = operations is not None
        drawer = Drawer(sequence, weights(self.setup.features, child))
        control, number = self.control, self.number
        counts = control.counts(number)
        while not control.stop and (operations is None or self.operation < operations):
            kind, draw = drawer.next()
            if not child and self.operation < _FIRST_WINDOWS:
                kind = self._attach
            self._entry = control.begin(number, self.operation, kind)
            if self._kinds[kind].function(self, draw) is False:
                control.end(self._entry, SKIPPED)
            else:
                control.end(self._entry, DONE)
                counts[kind] += 1
            self.operation += 1

    def note(self, file: int = -1, access: int = -1, page: int = 0, address: int = 0, more: int = 0) -> None:
        """Leave word of what the operation is done with, for the case that something is wrong."""
        self.control.note(self._entry, file, access, page, address, more)

    # Windows

    def descriptor(self, file: File, write: bool = True) -> int:
        """An open file of ``file``."""
        return (self._descriptors if write else self._readers)[file.number]

    def map(
        self,
        file: File,
        access: int,
        start: int,
        granules: int,
        *,
        address: int = 0,
        flags: int = 0,
        shared: bool = True,
        fresh: bool = False,
    ) -> Window:
        """Map a part of a file, without noting it.

        :param flags: beside those that say what is to be tried
        :param shared: with shared page tables
        :param fresh: by an open file of its own, that is closed at once
        """
        kind = CLASSES[access]
        fd = file.open(kind.write) if fresh else self.descriptor(file, kind.write)
        try:
            at = syscalls.mmap(
                granules * GRANULE,
                kind.prot,
                flags | (self.setup.flags if shared else MAP_SHARED),
                fd,
                start * GRANULE,
                address,
            )
        finally:
            if fresh:
                os.close(fd)
        if at % GRANULE and shared and "shared" in self.setup.features:
            raise Wrong(f"mmap returned {at:#x}, which is no multiple of the granule")
        if flags & MAP_FIXED and at != address:
            raise Wrong(f"mmap with MAP_FIXED at {address:#x} returned {at:#x}")
        return Window(file, access, at, start, granules, shared)

    def pick(self, draw: Draw, role: str, write: bool = False) -> tuple[Window, int] | None:
        """A window on a file of a role, and a page in it.

        :param write: the window must be writable
        """
        found = [w for w in self.windows if w.file.role == role and (w.writable or not write)]
        if not found:
            return None
        window = draw.choice(found)
        page = self.page_in(draw, window)
        self.note(window.file.number, window.access, page, window.at(page), window.shared)
        return window, page

    @staticmethod
    def page_in(draw: Draw, window: Window) -> int:
        """A page of a window: often one of the few that others use, too."""
        first, end = window.first_page, window.end_page
        where = draw.below(6)
        if where < 3:
            granules = (end - first) // _GRANULE_PAGES
            return first + draw.below(granules) * _GRANULE_PAGES + draw.below(HOT_PAGES)
        if where == 3 and end > window.file.tail:
            return draw.between(window.file.tail, end - 1)
        return draw.between(first, end - 1)

    # Locks

    def lock(self, file: File, page: int, pages: int, exclusive: bool, wait: bool = False) -> bool:
        """Lock pages of a file.

        :param exclusive: to change them; else they only must not change
        :param wait: until they are free
        :returns: whether they are locked now
        """
        return self.lock_bytes((file.number << 20) + page, pages, exclusive, wait)

    def unlock(self, file: File, page: int, pages: int) -> None:
        """Unlock them."""
        self.unlock_bytes((file.number << 20) + page, pages)

    def lock_bytes(self, start: int, length: int, exclusive: bool, wait: bool = False) -> bool:
        """Lock bytes of the file of locks. The kernel unlocks them when the process dies."""
        how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.lockf(self.setup.locks, how if wait else how | fcntl.LOCK_NB, length, start)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

    def unlock_bytes(self, start: int, length: int) -> None:
        """Unlock them."""
        fcntl.lockf(self.setup.locks, fcntl.LOCK_UN, length, start)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Keep the processor for a while, if we may: with a change to another process there go translations
        that somebody forgot to flush.
        """
        held = -1
        if "root" in self.setup.features:
            # Not all at once, or nobody would be left to change anything.
            held = next(
                (at for at in range(_UNDISTURBED) if self.lock_bytes(_UNDISTURBED_LOCKS + at, 1, True)), -1
            )
        if held < 0:
            yield
            return
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            yield
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            self.unlock_bytes(_UNDISTURBED_LOCKS + held, 1)

    # Pages

    def pages_of(self, file: File) -> int:
        """How many pages a file has now."""
        return os.fstat(self._descriptors[file.number]).st_size // PAGE

    def read_file(self, file: File, page: int) -> bytes | None:
        """A page by read(2); ``None``: it is beyond the end."""
        return os.pread(self._descriptors[file.number], PAGE, page * PAGE) or None

    def versions(self, file: File, page: int) -> tuple[int, int]:
        """The current version of a page, and the announced one."""
        return self.control.current[file.number][page], self.control.announced[file.number][page]

    def content(self, file: File, page: int, version: int) -> bytes:
        """What a page holds in a version."""
        return content.content(file.number, page, version, self.setup.run)

    def check(
        self, window: Window, page: int, before: tuple[int, int], size: int, data: bytes | None
    ) -> None:
        """Is what was read of a page right?

        :param before: its versions before it was read
        :param size: pages of the file before it was read
        :param data: ``None``: it could not be read
        """
        file = window.file
        after = self.versions(file, page)
        if before == after and before[0] == before[1]:
            if data is None:
                right = page >= size
            else:
                right = (page < size or file.huge) and data == self.content(file, page, before[0])
            if not right:
                raise self.wrong_page(window, page, before[0], size, data)
        elif data is not None:
            versions = [self.content(file, page, version) for version in {*before, *after}]
            if before == after:
                right = content.consists_of(data, versions)
            else:  # there may have been more versions meanwhile
                right = data in versions or content.belongs(data, file.number, page, self.setup.run)
            if not right:
                raise self.wrong_page(window, page, before[0], size, data)
        elif page < file.tail:
            raise self.wrong_page(window, page, before[0], size, data)
        self.control.verified[self.number] += 1

    def wrong_page(self, window: Window, page: int, version: int, size: int, data: bytes | None) -> Wrong:
        """What is wrong with a page, with all that helps to find out why."""
        file = window.file
        address = window.at(page)
        current, announced = self.versions(file, page)
        lines = [
            f"file {file.number} ({file.name}), page {page} of {size} pages, at {address:#x}",
            f"in a window of class {CLASSES[window.access].name} with "
            f"{'shared' if window.shared else 'ordinary'} tables, {window.granules} granules from granule "
            f"{window.start} on",
            f"must hold: {content.describe(self.content(file, page, version))}"
            + (", or be beyond the end" if page >= size else ""),
            f"was read: {'nothing, it was refused' if data is None else content.describe(data)}",
            f"versions now: current {current >> 8}, announced {announced >> 8}",
            f"pagemap now: {self._pagemap(address)}",
        ]
        now = self.read_file(file, page)
        lines.append(f"read(2) now: {'nothing' if now is None else content.describe(now)}")
        again = self.ways.read_by_call(address, PAGE)
        lines.append(f"the mapping now: {'refused' if again is None else content.describe(again)}")
        return Wrong("\n  ".join(lines))

    @staticmethod
    def _pagemap(address: int) -> str:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            return os.pread(pagemap.fileno(), 8, address // PAGE * 8)[::-1].hex()

    def settle(self, file: File, page: int) -> None:
        """Finish what a process began that was killed. The page is locked exclusively."""
        current, announced = self.versions(file, page)
        if current == announced:
            return
        data = self.read_file(file, page)
        versions = [self.content(file, page, version) for version in (current, announced)]
        if data is not None:
            if not content.consists_of(data, versions):
                raise Wrong(
                    f"file {file.number} ({file.name}), page {page}: somebody was killed between versions "
                    f"{current >> 8} and {announced >> 8}; read(2): {content.describe(data)}"
                )
            os.pwrite(self.descriptor(file), versions[1], page * PAGE)
        self.control.current[file.number][page] = announced

    def announce(self, file: File, page: int, zero: bool) -> int:
        """Announce the next version of a page. The page is locked exclusively, and settled."""
        version = content.following(self.control.current[file.number][page], self.number, zero)
        self.control.announced[file.number][page] = version
        return version

    def declare(self, file: File, page: int) -> None:
        """The announced version is the current one now."""
        self.control.current[file.number][page] = self.control.announced[file.number][page]

    # Children

    def fork(self, operations: int) -> None:
        """A child does some operations with the mappings of this process, and exits."""
        parent = os.getpid()
        self.child = os.fork()
        if self.child:
            return
        status = FAILED
        try:
            # It shares the place of a child of this process's next life, so it must not outlive this one.
            syscalls.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(0)
            number = self.setup.processes + self.number
            sequence = self.sequence(f"child {self.operation}")
            self.number = number
            self.control.pids[number] = os.getpid()
            self.ways = Ways()
            self.operation = self.child = 0
            for window in [window for window in self.windows if not window.inherited]:
                self.windows.remove(window)
                if self.ways.read_by_call(window.address, PAGE) is not None:
                    raise Wrong(f"a child can read at {window.address:#x} in spite of MADV_DONTFORK")
            self.work(sequence, operations)
            status = 0
        except BaseException as error:
            report(self.control, self.number, error)
        finally:
            os._exit(status)

    def reap(self) -> bool:
        """No child is there any more; if it is gone only now, see how it ended."""
        if self.child:
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if not pid:
                return False
            self.child = 0
            code = os.waitstatus_to_exitcode(status)
            if code:
                how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                raise Wrong(f"the child {pid} ended by {how}")
        return True

    def sequence(self, more: str = "") -> str:
        """What the numbers that this process draws follow from."""
        return f"{self.setup.seed}/{self.number}/{self.control.lives[self.number]}/{more}"


def weights(features: frozenset[str], child: bool) -> list[int]:
    """Of each kind of operation."""
    return [
        int(kind.weight * 10) if kind.needs <= features and (kind.in_child or not child) else 0
        for kind in kinds()
    ]


def make_control(setup: Setup) -> Control:
    """Map the control memory."""
    return Control(
        setup.control,
        2 * setup.processes,
        [file.pages for file in setup.files],
        len(kinds()),
        len(CLASSES) * setup.regions,
    )


def report(control: Control, number: int, error: BaseException) -> None:
    """Tell the supervisor what is wrong."""
    if isinstance(error, Wrong):
        # Where the operation found it helps, too.
        place = traceback.extract_tb(error.__traceback__)[-1]
        control.fail(
            number, f"{error}\n  found by {place.name}, {os.path.basename(place.filename)}:{place.lineno}"
        )
    else:
        control.fail(number, "".join(traceback.format_exception(error)))


def live(setup: Setup, control: Control, number: int) -> NoReturn:
    """The life of a process, from its start or from its exec to its end."""
    status = FAILED
    # Whoever wants the run to end tells the supervisor, or kills it.
    endings = (signal.SIGINT, signal.SIGTERM)
    for ending in endings:
        signal.signal(ending, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, endings)
    syscalls.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != setup.supervisor:
        os._exit(0)
    try:
        faulthandler.enable(file=setup.crash, all_threads=False)
        control.pids[number] = os.getpid()
        worker = Worker(setup, control, number)
        for access in GUARDED if worker.guarded else ():
            assert worker.guarded
            worker.guards[access] = worker.map(worker.guarded, access, 0, worker.guarded.granules).address
        worker.work(worker.sequence())
        for window in worker.windows:
            syscalls.munmap(window.address, window.size)
        if worker.child:
            os.waitpid(worker.child, 0)
        status = 0
    except BaseException as error:
        report(control, number, error)
    finally:
        # Not the parent's exit handlers, and none of its buffered output a second time.
        os._exit(status)


def main() -> None:
    """A process that executed Python anew; the arguments are its number and the setup."""
    setup = Setup.from_json(sys.argv[2])
    for fd in setup.descriptors:
        os.set_inheritable(fd, False)
    live(setup, make_control(setup), int(sys.argv[1]))
