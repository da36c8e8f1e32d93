# SPDX-License-Identifier: MIT
"""The game with protection: it belongs to all who have a file mapped in the same way.

A region of the guarded file has one protection in each access class. Who changes it locks the region,
announces what comes, and declares it when mprotect has returned: from then on nobody must have more, or less.
The others try, with the region locked against changes, or without a lock and with a look before and after.

In the second half of each page every process has a word of its own to write to.
"""

import copy
import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ptshare import syscalls
from ptshare.stress import content
from ptshare.stress.files import GUARDED_HALF, File
from ptshare.stress.memory import BYTES, WORDS
from ptshare.stress.operations import operation
from ptshare.stress.sequence import Draw
from ptshare.stress.setup import CLASSES, GUARDED, REGION_PAGES, STATES
from ptshare.stress.worker import Worker, Wrong, looks
from ptshare.syscalls import PAGE, R, W, X

#: Bytes of the file of locks from here on are for regions.
_LOCKS = 1 << 40
#: Exit status of a child that was not let execute a page.
REFUSED = signal.SIGSEGV.value
#: Regions that half of all operations are about.
_BUSY_REGIONS = 4
_LETTERS = {R: "r", W: "w", X: "x"}


def words(prot: int) -> str:
    """A protection as /proc/PID/maps shows it."""
    return "".join(letter if prot & bit else "-" for bit, letter in _LETTERS.items())


def shown_protection(address: int) -> str:
    """The protection of an own address in /proc/PID/maps; empty: it is not there."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, access, _ = line.split(maxsplit=2)
            start, end = (int(number, 16) for number in span.split("-"))
            if start <= address < end:
                return access[:3]
    return ""


class Spot:
    """A page of the guarded file, in one access class."""

    def __init__(self, worker: Worker, draw: Draw) -> None:
        assert worker.guarded
        self.worker = worker
        self.file: File = worker.guarded
        self.access = draw.choice(GUARDED)
        regions = self.file.pages // REGION_PAGES
        # Half of the time the same few, so that processes meet.
        self.region = draw.below(_BUSY_REGIONS) if draw.one_in(2) else draw.below(regions)
        self.slot = GUARDED_HALF + 8 * worker.number
        self.regions = regions
        self._place(draw.below(REGION_PAGES))
        worker.note(self.file.number, self.access, self.page, self.address)

    def _place(self, page: int) -> None:
        self.page = self.region * REGION_PAGES + page
        self.address = self.worker.guards[self.access] + self.page * PAGE
        self.index = self.access * self.regions + self.region

    def sibling(self, region: int) -> "Spot":
        """The same page of another region."""
        spot = copy.copy(self)
        spot.region = region
        spot._place(self.page % REGION_PAGES)
        return spot

    @property
    def rights(self) -> tuple[int, int]:
        """The protection in force, and the one announced, with how often they were changed."""
        control = self.worker.control
        return control.rights[self.index], control.announced_rights[self.index]

    def lock(self, regions: int, exclusive: bool) -> bool:
        """Lock some regions from this one on."""
        return self.worker.lock_bytes(_LOCKS + self.index, regions, exclusive)

    def unlock(self, regions: int) -> None:
        """Unlock them."""
        self.worker.unlock_bytes(_LOCKS + self.index, regions)

    @contextmanager
    def steady(self) -> Iterator[int | None]:
        """The protection in force, while nobody changes it. ``None``: somebody does, or died doing it."""
        if not self.lock(1, exclusive=False):
            yield None
            return
        try:
            current, announced = self.rights
            yield _prot(current) if current == announced else None
        finally:
            self.unlock(1)

    def wrong(self, what: str, prot: int) -> Wrong:
        """What is wrong, and what is to be known about it."""
        return Wrong(
            f"{what}: class {CLASSES[self.access].name}, region {self.region}, page {self.page}, at "
            f"{self.address:#x}, protection {words(prot)}\n  rights now: {self.rights}\n"
            f"  maps now: {shown_protection(self.address)}"
        )


def _prot(rights: int) -> int:
    return rights & 7


@operation("protect.mprotect", 40, "shared")
def protect(worker: Worker, draw: Draw) -> bool | None:
    """Change the protection of some regions."""
    spot = Spot(worker, draw)
    regions = min(draw.choice((1, 1, 1, 2, 8)), spot.regions - spot.region)
    prot = draw.choice(STATES[spot.access])
    worker.note(spot.file.number, spot.access, spot.page, spot.address, regions << 8 | prot)
    if not spot.lock(regions, exclusive=True):
        return False
    control = worker.control
    try:
        for index in range(spot.index, spot.index + regions):
            control.announced_rights[index] = (control.announced_rights[index] >> 3) + 1 << 3 | prot
        syscalls.mprotect(
            worker.guards[spot.access] + spot.region * REGION_PAGES * PAGE,
            regions * REGION_PAGES * PAGE,
            prot,
        )
        for index in range(spot.index, spot.index + regions):
            control.rights[index] = control.announced_rights[index]
        _try(spot, draw, prot)
    finally:
        spot.unlock(regions)
    return None


def _try(spot: Spot, draw: Draw, prot: int) -> None:
    """Read and write while nobody changes the protection, each in a way that was drawn."""
    worker, address, slot = spot.worker, spot.address, spot.slot
    ways = worker.ways
    half = content.content(spot.file.number, spot.page, content.CONSTANT, worker.setup.run)[:GUARDED_HALF]

    read = draw.choice((ways.read_by_call, ways.read_by_gup, None))
    if read is None:
        found = bytes(BYTES[address : address + GUARDED_HALF]) if prot & R else None
    else:
        found = read(address, GUARDED_HALF)
    if (found is not None) != bool(prot & R):
        raise spot.wrong("a page was read" if found else "a page could not be read", prot)
    if found is not None and found != half:
        raise spot.wrong(f"the page holds {content.describe(found)}", prot)

    data = draw.below(1 << 60).to_bytes(8, "little")
    before = os.pread(worker.descriptor(spot.file), 8, spot.page * PAGE + slot)
    write = draw.choice((ways.write_by_call, ways.write_by_gup, ways.write_by_mem, None))
    if write is None:
        done = bool(prot & W)
        if done:
            BYTES[address + slot : address + slot + 8] = data
    else:
        done = write(address + slot, data)
    if done != bool(prot & W):
        raise spot.wrong("a page was written" if done else "a page could not be written", prot)
    after = os.pread(worker.descriptor(spot.file), 8, spot.page * PAGE + slot)
    if after != (data if done else before):
        raise spot.wrong(
            f"{data.hex()} was written over {before.hex()}: {done}; the file has {after.hex()}", prot
        )

    if prot & X:
        ctypes.CFUNCTYPE(None)(address)()


@operation("protect.try", 60, "shared")
def attempt(worker: Worker, draw: Draw) -> bool | None:
    """Try what the protection allows and what it does not, while nobody changes it."""
    spot = Spot(worker, draw)
    with spot.steady() as prot:
        if prot is None:
            return False
        _try(spot, draw, prot)
    return None


@operation("protect.watch", 25, "shared")
def watch(worker: Worker, draw: Draw) -> bool | None:
    """Try the regions that are used most again and again while others change their protection."""
    spots = [Spot(worker, draw)]
    spots += [spots[0].sibling(region) for region in range(_BUSY_REGIONS)]
    ways = worker.ways
    data = draw.below(1 << 60).to_bytes(8, "little")
    store = draw.one_in(2)
    with worker.undisturbed():
        for _ in looks():
            for spot in spots:
                before = spot.rights
                if before[0] != before[1]:
                    continue
                at = spot.address + spot.slot
                done = ways.write_by_call(at, data) if store else ways.read_by_call(at, 8) is not None
                if spot.rights == before and done != bool(before[0] & (W if store else R)):
                    how = "was" if done else "could not be"
                    raise spot.wrong(f"a page {how} {'written' if store else 'read'}", _prot(before[0]))
    return None


@operation("protect.execute", 2, "shared", "exec", in_child=False)
def execute(worker: Worker, draw: Draw) -> bool | None:
    """What is not executable is not executed: a child tries, and dies of it."""
    spot = Spot(worker, draw)
    with spot.steady() as prot:
        if prot is None:
            return False
        pid = os.fork()
        if pid == 0:
            # SIGSEGV becomes an exit status, which nobody takes for a crash if the parent is gone by then.
            syscalls.libc.signal(signal.SIGSEGV, ctypes.cast(syscalls.libc._exit, ctypes.c_void_p))
            try:
                ctypes.CFUNCTYPE(None)(spot.address)()
            finally:
                os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != (0 if prot & X else REFUSED):
            raise spot.wrong(f"a child that executed it ended with {code}", prot)
    return None


@operation("protect.remote", 10, "shared")
def remote(worker: Worker, draw: Draw) -> bool | None:
    """By get_user_pages() on another process that has the file mapped in the same way."""
    spot = Spot(worker, draw)
    with spot.steady() as prot:
        if prot is None:
            return False
        address = worker.setup.keepers[spot.access] + spot.page * PAGE
        data = draw.below(1 << 60).to_bytes(8, "little")
        for what, bit, call in (
            ("read", R, lambda: syscalls.vm_readv(worker.setup.supervisor, address, 8)),
            ("written", W, lambda: syscalls.vm_writev(worker.setup.supervisor, address + spot.slot, data)),
        ):
            try:
                call()
                done = True
            except OSError:
                done = False
            if done != bool(prot & bit):
                how = f"was {what}" if done else f"could not be {what}"
                raise spot.wrong(f"a page of another process {how}", prot)
    return None


@operation("protect.attach-again", 8, "shared")
def attach_again(worker: Worker, draw: Draw) -> bool | None:
    """A guest that comes later has the protection in force."""
    spot = Spot(worker, draw)
    window = worker.map(spot.file, spot.access, 0, spot.file.granules, fresh=draw.one_in(2))
    syscalls.munmap(worker.guards[spot.access], spot.file.size)
    worker.guards[spot.access] = window.address
    return None


@operation("protect.maps", 3, "shared")
def maps(worker: Worker, draw: Draw) -> bool | None:
    """/proc/PID/maps shows the protection in force."""
    spot = Spot(worker, draw)
    with spot.steady() as prot:
        if prot is None:
            return False
        shown = shown_protection(spot.address)
        if shown != words(prot):
            raise spot.wrong(f"maps shows {shown or 'nothing'}", prot)
    return None


@operation("protect.sweep", 4, "shared")
def sweep(worker: Worker, draw: Draw) -> bool | None:
    """Look at all pages of a region."""
    spot = Spot(worker, draw)
    with spot.steady() as prot:
        if prot is None or not prot & R:
            return False
        for page in range(spot.region * REGION_PAGES, (spot.region + 1) * REGION_PAGES):
            at = worker.guards[spot.access] + page * PAGE
            half = content.content(spot.file.number, page, content.CONSTANT, worker.setup.run)
            if WORDS[at >> 3] != int.from_bytes(half[:8], "little"):
                raise spot.wrong(f"page {page} of it holds {content.describe(bytes(BYTES[at : at + 64]))}", 0)
    return None
