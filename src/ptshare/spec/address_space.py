# SPDX-License-Identifier: MIT
"""mmap, munmap, mremap, and what takes a mapping's place. Checks stand in the kernel's order."""

import errno
from typing import NamedTuple

from ptshare.spec.entries import GIB, GRANULE, PAGE, Flag
from ptshare.spec.faults import link_warm, map_page
from ptshare.spec.files import File, OpenFile
from ptshare.spec.locking import fill
from ptshare.spec.mappings import add, cuts_granules, domain_of, remove, replace_with, within
from ptshare.spec.reach import flush
from ptshare.spec.state import (
    ADDRESSES,
    EXECUTE,
    HOST_BYTES,
    READ,
    WRITE,
    AccessClass,
    Mapping,
    Outcome,
    Process,
    State,
)

__all__ = [
    "Request",
    "anonymous",
    "carried",
    "congruent",
    "may",
    "mmap",
    "mremap",
    "munmap",
    "remap_file_pages",
]


class Request(NamedTuple):
    """What mmap(2) is asked for.

    :param start: the fixed address; ``None``: the kernel chooses one
    :param opened: the file; ``None``: MAP_ANONYMOUS
    :param shared_pt: MAP_SHARED_PT
    :param validate: MAP_SHARED_VALIDATE, not MAP_SHARED; for files only
    :param private: MAP_PRIVATE, of which only the refusal is modelled
    :param huge: MAP_HUGETLB
    :param noreplace: MAP_FIXED_NOREPLACE
    :param hint: an address that is only a hint
    :param locked: MAP_LOCKED
    :param populate: MAP_POPULATE
    """

    start: int | None
    length: int
    prot: int
    opened: OpenFile | None
    offset: int = 0
    shared_pt: bool = False
    validate: bool = True
    private: bool = False
    huge: bool = False
    noreplace: bool = False
    hint: int = 0
    locked: bool = False
    populate: bool = False


def refused(number: int) -> Outcome:
    """An errno."""
    return Outcome(-1, number)


def mmap(state: State, process: Process, asked: Request) -> Outcome:
    """mmap(2). With the flag it shares its tables or is refused."""
    if asked.shared_pt and not state.supported:
        if asked.validate and asked.opened:
            return refused(errno.EOPNOTSUPP)
        asked = asked._replace(shared_pt=False)
    if not asked.length or asked.offset % PAGE:
        return refused(errno.EINVAL)
    if not asked.opened:
        asked = asked._replace(offset=0)
    number = _not_shareable(state, asked) if asked.shared_pt else 0
    if number:
        return refused(number)
    assert not asked.private, "private mappings are left out"
    length = -(-asked.length // PAGE) * PAGE
    start = asked.start
    if start is None:
        start = _choose(process, asked._replace(length=length))
    if start is None or start + length > ADDRESSES:
        return refused(errno.ENOMEM)
    if start % PAGE:
        return refused(errno.EINVAL)
    if asked.noreplace and process.within(start, start + length):
        return refused(errno.EEXIST)
    locked = asked.locked or process.locks_future
    if asked.locked and process.memlock == 0:
        return refused(errno.EPERM)
    if locked and not process.may_lock(length):
        return refused(errno.EAGAIN)
    number = _not_allowed(process, asked) or _not_removable(process, start, start + length)
    if number:
        return refused(number)
    opened = asked.opened or OpenFile(anonymous(state, length))
    present = carried(process, start, start + length, opened, asked.offset) if asked.shared_pt else []
    mapping = Mapping(start, length, opened, asked.offset, asked.prot, may(opened), locked=locked)
    # If the old one was the last guest of the very domain that is asked for, that goes, and a new one comes.
    remove(state, process, start, start + length)
    if asked.shared_pt:
        mapping.domain = domain_of(state, opened.file, AccessClass(asked.prot, mapping.may, process.mdwe))
    add(process, mapping)
    _carry_over(mapping, present)
    link_warm(process, mapping)
    if locked or asked.populate:
        fill(state, process, start, start + length, ignore=True)
    return Outcome(start)


def _not_shareable(state: State, asked: Request) -> int:
    """What MAP_SHARED_PT cannot do, in the kernel's order."""
    if asked.huge:
        return errno.EOPNOTSUPP
    if asked.private:
        return errno.EINVAL
    if not state.enabled:
        return errno.EOPNOTSUPP
    if asked.length % GRANULE or (asked.start or 0) % GRANULE or asked.offset % GRANULE:
        return errno.EINVAL
    if asked.opened and asked.opened.file.kind != "page cache":
        return errno.EOPNOTSUPP
    return errno.EOVERFLOW if asked.offset + asked.length > HOST_BYTES else 0


def _not_allowed(process: Process, asked: Request) -> int:
    """The rights of the descriptor, of the mount, of the file's seals, and what the process denies itself."""
    if asked.noreplace and asked.validate and asked.opened:
        # Not among the flags that Linux knows with MAP_SHARED_VALIDATE.
        return errno.EOPNOTSUPP
    opened = asked.opened
    if opened:
        if (asked.prot & WRITE and not opened.writable) or not opened.readable:
            return errno.EACCES
        if asked.prot & EXECUTE and opened.no_execute:
            return errno.EPERM
        if asked.prot & WRITE and opened.file.sealed_write:
            return errno.EPERM
    if process.mdwe and asked.prot & WRITE and asked.prot & EXECUTE:
        return errno.EACCES
    return 0


def _not_removable(process: Process, start: int, end: int) -> int:
    """Why what is mapped in a range cannot be taken away."""
    if cuts_granules(process, start, end):
        return errno.EINVAL
    return errno.EPERM if any(one.sealed for one in process.within(start, end)) else 0


def may(opened: OpenFile) -> int:
    """What an open file lets a mapping have."""
    found = READ
    if opened.writable and not opened.file.sealed_write:
        found |= WRITE
    if not opened.no_execute:
        found |= EXECUTE
    return found


def anonymous(state: State, length: int) -> File:
    """Shared anonymous memory is a file without a name, of the mapping's own."""
    state.files.append(File("anonymous", length, state.memory, anonymous=True))
    return state.files[-1]


def congruent(start: int, length: int, offset: int) -> bool:
    """Does an address that the kernel chose suit a guest? From 1 GiB on one link is to serve a whole GiB."""
    return (start - offset) % (GIB if length >= GIB else GRANULE) == 0


def _choose(process: Process, asked: Request) -> int | None:
    """An address that is free: any that suits will do."""

    def suits(start: int) -> bool:
        free = start + asked.length <= ADDRESSES and not process.within(start, start + asked.length)
        return free and (not asked.shared_pt or congruent(start, asked.length, asked.offset))

    if asked.hint and asked.hint % PAGE == 0 and suits(asked.hint):
        return asked.hint
    unit = (GIB if asked.length >= GIB else GRANULE) if asked.shared_pt else PAGE
    begins = [GIB, *(-(-one.end // unit) * unit for one in process.mappings)]
    rest = asked.offset % unit
    return next((begin + rest for begin in sorted(begins) if suits(begin + rest)), None)


def carried(process: Process, start: int, end: int, opened: OpenFile, offset: int) -> list[int]:
    """Pages of the file that own ordinary mappings of the same part of it have present there."""
    return [
        part.page(address)
        for _, part in within(process, start, end)
        if not part.domain and part.file is opened.file and part.offset == offset + part.start - start
        for address, _ in process.tables.pages(part.start, part.end)
    ]


def _carry_over(mapping: Mapping, pages: list[int]) -> None:
    """What was present stays so: in the host, where the protection in force lets anyone have it."""
    for page in pages:
        prot = mapping.protection_at(mapping.address(page))
        host, place = mapping.place(mapping.address(page))
        if not prot:
            break
        found = host.walk(place) if host else None
        if host and not (found and found.value & Flag.PRESENT):
            map_page(host, place, mapping.file, page, prot, 0)


def munmap(state: State, process: Process, start: int, length: int) -> Outcome:
    """munmap(2)"""
    end = start + -(-length // PAGE) * PAGE
    if not length or start % PAGE or end > ADDRESSES:
        return refused(errno.EINVAL)
    number = _not_removable(process, start, end)
    if number:
        return refused(number)
    remove(state, process, start, end)
    return Outcome()


def mremap(
    state: State,
    process: Process,
    start: int,
    length: int,
    new_length: int,
    new_start: int | None,
    may_move: bool = True,
) -> Outcome:
    """mremap(2) with MREMAP_MAYMOVE if it may move, and with MREMAP_FIXED if there is a new address.

    The kernel joins neighbours in ways of its own: where a range goes over the end of a mapping, EFAULT is
    for mappings that do not continue each other.
    """
    length, new_length = (-(-size // PAGE) * PAGE for size in (length, new_length))
    if start % PAGE or not new_length:
        return refused(errno.EINVAL)
    mapping = process.at(start)
    if mapping is None:
        return refused(errno.EFAULT)
    if mapping.sealed:
        return refused(errno.EPERM)
    if mapping.domain:
        whole = not (start | length | new_length | (new_start or 0)) % GRANULE
        if not whole or mapping.part(start, mapping.end).offset + new_length > HOST_BYTES:
            return refused(errno.EINVAL)
    if new_start is not None:
        return _mremap_to(state, process, start, length, new_length, new_start)
    if new_length <= length:
        return _shrunk(state, process, start, length, new_length) or Outcome(start)
    number = _not_resizable(process, start, length, new_length)
    if number:
        return refused(number)
    mapping = process.at(start)
    assert mapping
    grown = start + new_length
    if start + length == mapping.end and grown <= ADDRESSES and not process.within(mapping.end, grown):
        whole_length = grown - mapping.start
        replace_with(state, process, mapping, [mapping.moved(mapping.start, whole_length)])
        if mapping.locked:
            fill(state, process, start + length, grown, ignore=True)
        return Outcome(start)
    if not may_move:
        return refused(errno.ENOMEM)
    part = mapping.part(start, mapping.end)
    # By the kernel's own choice: any address that suits will do.
    shared = mapping.domain is not None
    asked = Request(None, new_length, mapping.prot, mapping.opened, part.offset, shared_pt=shared)
    place = _choose(process, asked)
    if place is None:
        return refused(errno.ENOMEM)
    return _move(state, process, start, length, new_length, place)


def _mremap_to(
    state: State, process: Process, start: int, length: int, new_length: int, new_start: int
) -> Outcome:
    overlap = start + length > new_start and new_start + new_length > start
    if new_start % PAGE or new_start + new_length > ADDRESSES or overlap:
        return refused(errno.EINVAL)
    # As mremap(2) does: what stood at the new address has gone if something is found wrong from here on.
    outcome = munmap(state, process, new_start, new_length)
    if outcome.errno:
        return outcome
    outcome = _shrunk(state, process, start, length, new_length) or outcome
    if outcome.errno:
        return outcome
    length = min(length, new_length)
    number = _not_resizable(process, start, length, new_length)
    return refused(number) if number else _move(state, process, start, length, new_length, new_start)


def _shrunk(state: State, process: Process, start: int, length: int, new_length: int) -> Outcome | None:
    """What is too much has gone; else why not."""
    if new_length >= length:
        return None
    outcome = munmap(state, process, start + new_length, length - new_length)
    return outcome if outcome.errno else None


def _not_resizable(process: Process, start: int, length: int, new_length: int) -> int:
    mapping = process.at(start)
    if mapping is None or start + length > mapping.end:
        return errno.EFAULT
    if mapping.locked and not process.may_lock(new_length - length):
        return errno.EAGAIN
    return 0


def _move(
    state: State, process: Process, start: int, length: int, new_length: int, new_start: int
) -> Outcome:
    """The sharing stays: what was linked is linked again at the new place, by faults. Entries of an ordinary
    mapping move. A length of 0 leaves the old mapping where it is: another one of the same.
    """
    mapping = process.at(start)
    assert mapping
    moved = mapping.part(start, mapping.end).moved(new_start, new_length)
    entries = [] if moved.domain else list(process.tables.pages(start, start + length))
    add(process, moved)
    if length:
        remove(state, process, start, start + length)
        for address, value in entries:
            process.tables.set(new_start + address - start, value)
    flush(state, process, start, start + length)
    if moved.locked and new_length > length:
        fill(state, process, new_start + length, new_start + new_length, ignore=True)
    return Outcome(new_start)


def remap_file_pages(state: State, process: Process, start: int, length: int, page: int) -> Outcome:
    """remap_file_pages(2): another part of the file in the place of a part of a mapping; never of a guest."""
    start, length = start // PAGE * PAGE, length // PAGE * PAGE
    mapping = process.at(start)
    if not length or mapping is None or not mapping.opened.writable or mapping.domain:
        return refused(errno.EINVAL)
    if start + length > mapping.end:
        return refused(errno.EINVAL)
    asked = Request(start, length, mapping.prot, mapping.opened, page * PAGE, locked=mapping.locked)
    outcome = mmap(state, process, asked._replace(populate=True))
    return outcome if outcome.errno else Outcome()
