# SPDX-License-Identifier: MIT
"""madvise(2), and msync(2), mincore(2) and userfaultfd(2), which go over ranges in the same way."""

import errno
from collections.abc import Callable

from ptshare.spec.changes import fsync, punch, reclaim
from ptshare.spec.entries import GRANULE, PAGE, Flag
from ptshare.spec.faults import bring_in
from ptshare.spec.files import File
from ptshare.spec.mappings import change, clear, unmapped_from, within
from ptshare.spec.reach import flush_file, mapped
from ptshare.spec.state import READ, WRITE, Mapping, Outcome, Process, State

__all__ = ["ADVICE", "madvise", "mincore", "msync", "userfaultfd_register"]

#: What an advice adds to a mapping, and what it takes from it.
_STAYS: dict[str, tuple[set[str], set[str]]] = {
    "NORMAL": (set(), {"RANDOM", "SEQUENTIAL"}),
    "RANDOM": ({"RANDOM"}, {"SEQUENTIAL"}),
    "SEQUENTIAL": ({"SEQUENTIAL"}, {"RANDOM"}),
    "DONTFORK": ({"DONTFORK"}, set()),
    "DOFORK": (set(), {"DONTFORK"}),
    "DONTDUMP": ({"DONTDUMP"}, set()),
    "DODUMP": (set(), {"DONTDUMP"}),
    "NOHUGEPAGE": ({"NOHUGEPAGE"}, {"HUGEPAGE"}),
    "HUGEPAGE": ({"HUGEPAGE"}, {"NOHUGEPAGE"}),
}
_DOES = ("DONTNEED", "REMOVE", "COLD", "PAGEOUT", "WILLNEED", "COLLAPSE", "POPULATE_READ", "POPULATE_WRITE")
ADVICE = (*_DOES, *_STAYS)


def madvise(state: State, process: Process, start: int, length: int, advice: str) -> Outcome:
    """madvise(2). One mapping after the other: the first that refuses ends it; gaps are told at the end."""
    end = start + -(-length // PAGE) * PAGE
    if start % PAGE or advice not in ADVICE:
        return Outcome(-1, errno.EINVAL)
    if end == start:
        return Outcome()
    if advice.startswith("POPULATE"):
        return _populate(state, process, start, end, WRITE if advice == "POPULATE_WRITE" else READ)
    for mapping, part in list(within(process, start, end)):
        number = _advise(state, process, mapping, part, advice)
        if number:
            return Outcome(-1, number)
    return Outcome(-1, errno.ENOMEM) if unmapped_from(process, start, end) < end else Outcome()


def _populate(state: State, process: Process, start: int, end: int, right: int) -> Outcome:
    """One process fills the shared tables for all. What was brought in before an error stays."""
    reason, faults = bring_in(state, process, start, end, right, right)
    number = {"": 0, "unmapped": errno.ENOMEM, "denied": errno.EINVAL}.get(reason, errno.EFAULT)
    return Outcome(-1 if number else 0, number, faults=faults)


def _advise(state: State, process: Process, mapping: Mapping, part: Mapping, advice: str) -> int:
    """Of a part of one mapping; an errno, or 0."""
    if advice in ("HUGEPAGE", "COLLAPSE") and part.domain:
        return errno.EINVAL
    if advice in ("DONTNEED", "REMOVE", "COLD", "PAGEOUT") and part.locked:
        return errno.EINVAL
    if advice in _STAYS:
        added, taken = _STAYS[advice]
        new = (part.advice | added) - taken
        return 0 if change(state, process, mapping, part, advice=new) else errno.EINVAL
    match advice:
        case "DONTNEED":
            _dont_need(state, process, part)
        case "REMOVE":
            if not part.opened.writable or not part.may & WRITE:
                return errno.EACCES
            return punch(state, part.file, part.page(part.start), part.page(part.end)).errno
        case "COLD":
            # Of a guest's pages it is others who use them.
            if not (part.domain and part.opened.stranger):
                _once_mapped(state, process, part, _age)
        case "PAGEOUT":
            # Who may not write to a file cannot push its pages out either: nothing happens.
            if not part.opened.stranger:
                _once_mapped(state, process, part, _page_out)
        case "WILLNEED":
            # How much of it the kernel reads is its own affair.
            part.file.bring_in(part.page(part.start), part.length // PAGE)
        case "COLLAPSE":
            # Of ordinary mappings, too: there are no huge pages in the model.
            return errno.EINVAL
    return 0


def _dont_need(state: State, process: Process, part: Mapping) -> None:
    """Of a guest the caller's links of whole granules, and no page; of an ordinary mapping its entries."""
    low, high = part.start, part.end
    if part.domain:
        low, high = -(-low // GRANULE) * GRANULE, high // GRANULE * GRANULE
    if low < high:
        clear(state, process, low, high)


def _once_mapped(
    state: State, process: Process, part: Mapping, does: Callable[[State, File, int], object]
) -> None:
    """Do something with those present pages of a range that no other tables have. Shared tables are one,
    however many guests have linked them. The kernel may leave pages out that it finds in use.
    """
    for address in range(part.start, part.end, PAGE):
        page = part.page(address)
        if process.tables.walk(address) and len(list(mapped(state, part.file, page))) == 1:
            does(state, part.file, page)


def _age(state: State, file: File, page: int) -> None:
    for tree, address, _ in list(mapped(state, file, page)):
        found = tree.walk(address)
        assert found
        tree.set(address, found.value & ~Flag.ACCESSED)
    flush_file(state, file, page, page + 1)


def _page_out(state: State, file: File, page: int) -> None:
    reclaim(state, file, page, page + 1)


def msync(state: State, process: Process, start: int, length: int, invalidate: bool = False) -> Outcome:
    """msync(2), MS_SYNC, with MS_INVALIDATE if so asked; gaps are told at the end."""
    end = start + -(-length // PAGE) * PAGE
    if start % PAGE:
        return Outcome(-1, errno.EINVAL)
    for _, part in within(process, start, end):
        if invalidate and part.locked:
            return Outcome(-1, errno.EBUSY)
        if part.opened.writable:
            fsync(state, part.file, part.page(part.start), part.page(part.end))
    return Outcome(-1, errno.ENOMEM) if unmapped_from(process, start, end) < end else Outcome()


def mincore(process: Process, start: int, length: int) -> Outcome:
    """mincore(2): bit n of the value tells whether page n of the range is in memory, whoever brought it in.
    To who neither owns the file nor may write to it, every page is.
    """
    end = start + -(-length // PAGE) * PAGE
    if start % PAGE:
        return Outcome(-1, errno.EINVAL)
    if unmapped_from(process, start, end) < end:
        return Outcome(-1, errno.ENOMEM)
    found = 0
    for _, part in within(process, start, end):
        for address in range(part.start, part.end, PAGE):
            if part.opened.stranger or part.file.frame(part.page(address)) is not None:
                found |= 1 << (address - start) // PAGE
    return Outcome(found)


def userfaultfd_register(process: Process, start: int, length: int) -> Outcome:
    """UFFDIO_REGISTER of userfaultfd(2): never on a guest. On others it depends on the file system, of which
    the model knows nothing: let it be tmpfs, which has it.
    """
    found = process.within(start, start + length)
    if start % PAGE or length % PAGE or not found or any(one.domain for one in found):
        return Outcome(-1, errno.EINVAL)
    return Outcome()
