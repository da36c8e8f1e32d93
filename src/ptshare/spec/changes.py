# SPDX-License-Identifier: MIT
"""What happens to files and their pages: it reaches everyone who has them mapped, at once."""

import errno

from ptshare.spec.entries import PAGE, Flag
from ptshare.spec.files import File
from ptshare.spec.reach import flush_file, mapped, unmap_pages
from ptshare.spec.state import WRITE, Outcome, State

__all__ = ["fsync", "migrate", "punch", "reclaim", "seal", "truncate", "unlink"]


def truncate(state: State, file: File, size: int) -> Outcome:
    """ftruncate(2): what is cut off is gone for everyone when it returns; what is added is zeros, and there
    for all who have mapped so far."""
    if (file.sealed_shrink and size < file.size) or (file.sealed_grow and size > file.size):
        return Outcome(-1, errno.EPERM)
    before = file.pages
    file.size = size
    if file.pages < before:
        unmap_pages(state, file, file.pages, before)
        file.forget(file.pages, before)
    return Outcome()


def punch(state: State, file: File, first: int, end: int) -> Outcome:
    """fallocate(2), FALLOC_FL_PUNCH_HOLE, of whole pages. Locked or not: the data goes."""
    if file.sealed_write:
        return Outcome(-1, errno.EPERM)
    unmap_pages(state, file, first, end)
    file.forget(first, end)
    return Outcome()


def unlink(file: File) -> Outcome:
    """unlink(2): nothing changes for who has it mapped."""
    file.unlinked = True
    return Outcome()


def seal(state: State, file: File, name: str) -> Outcome:
    """F_ADD_SEALS of fcntl(2).

    :param name: "write", "future_write", "shrink" or "grow"
    """
    if name == "write":
        # What a class may write counts as long as it has guests, as a mapping of its own does.
        writers = [
            one for process in state.processes.values() for one in process.mappings if one.file is file
        ]
        if any(one.may & WRITE for one in writers):
            return Outcome(-1, errno.EBUSY)
    if name in ("write", "future_write"):
        file.sealed_write = True
    else:
        setattr(file, f"sealed_{name}", True)
    return Outcome()


def reclaim(state: State, file: File, first: int, end: int) -> int:
    """Pages go to the disk, and their frames are free, but for those that somebody has locked.

    :returns: how many stayed
    """
    kept = {
        page
        for low, high in _locked_ranges(state, file)
        for page in range(max(low, first), min(high, end))
        if any(locked for _, _, locked in mapped(state, file, page))
    }
    begin = first
    for stop in [*sorted(kept), end]:
        if begin < stop:
            unmap_pages(state, file, begin, stop)
            file.dirty = {page for page in file.dirty if not begin <= page < stop}
            file.drop(begin, stop)
        begin = stop + 1
    return len(kept)


def _locked_ranges(state: State, file: File) -> list[tuple[int, int]]:
    return [
        (mapping.page(mapping.start), min(mapping.page(mapping.end), file.pages))
        for process in state.processes.values()
        for mapping in process.mappings
        if mapping.locked and mapping.file is file
    ]


def migrate(state: State, file: File, page: int) -> None:
    """A page moves to another frame, to which its entries are made to point, with the same rights; locked or
    not."""
    if file.frame(page) is None:
        return
    places = [(tree, at, tree.walk(at)) for tree, at, _ in mapped(state, file, page)]
    unmap_pages(state, file, page, page + 1)
    file.drop(page, page + 1)
    (run,) = file.bring_in(page, 1)
    for tree, at, found in places:
        assert found
        tree.set(at, run.frame * PAGE | found.value & ~_FRAME)


#: Of an entry what is not flags.
_FRAME = ((1 << 52) - 1) & -PAGE


def fsync(state: State, file: File, first: int = 0, end: int | None = None) -> int:
    """fsync(2): write what is dirty, and have the next store to it found. How many pages were written."""
    pages = sorted(page for page in file.dirty if first <= page and (end is None or page < end))
    file.dirty -= set(pages)
    for page in pages:
        for tree, address, _ in list(mapped(state, file, page)):
            found = tree.walk(address)
            assert found
            tree.set(address, found.value & ~(Flag.DIRTY | Flag.WRITABLE))
        flush_file(state, file, page, page + 1)
    return len(pages)
