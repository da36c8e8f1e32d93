# SPDX-License-Identifier: MIT
"""mlock(2) and its relatives. A page of a domain stays as long as any guest has it locked."""

import errno

from ptshare.spec.entries import PAGE
from ptshare.spec.faults import bring_in
from ptshare.spec.mappings import change, unmapped_from, within
from ptshare.spec.state import EXECUTE, READ, WRITE, Outcome, Process, State

__all__ = ["fill", "mlock", "mlockall", "munlock", "munlockall"]


def fill(state: State, process: Process, start: int, end: int, ignore: bool = False) -> bool:
    """Bring in what is mapped in a range, whatever is not PROT_NONE.

    :param ignore: go on after what cannot be brought in
    :returns: was all of it brought in?
    """
    good = True
    for _, part in within(process, start, end):
        if bring_in(state, process, part.start, part.end, READ, READ | WRITE | EXECUTE)[0]:
            good = False
            if not ignore:
                break
    return good


def mlock(state: State, process: Process, start: int, length: int) -> Outcome:
    """mlock(2): whole granules of a guest, else EINVAL. ENOMEM also for what cannot be brought in; that is
    locked then all the same, as ever.
    """
    start, end = _whole_pages(start, length)
    if process.memlock == 0:
        return Outcome(-1, errno.EPERM)
    locked = sum(part.length for _, part in within(process, start, end) if part.locked)
    if not process.may_lock(end - start - locked):
        return Outcome(-1, errno.ENOMEM)
    outcome = _set(state, process, start, end, True)
    if not outcome.errno and not fill(state, process, start, end):
        return Outcome(-1, errno.ENOMEM)
    return outcome


def munlock(state: State, process: Process, start: int, length: int) -> Outcome:
    """munlock(2): the caller's lock goes; the pages stay locked as long as another guest has them so."""
    return _set(state, process, *_whole_pages(start, length), False)


def mlockall(state: State, process: Process, current: bool, future: bool) -> Outcome:
    """mlockall(2)"""
    if not current and not future:
        return Outcome(-1, errno.EINVAL)
    if process.memlock == 0:
        return Outcome(-1, errno.EPERM)
    total = sum(mapping.length for mapping in process.mappings)
    if current and process.memlock is not None and total > process.memlock:
        return Outcome(-1, errno.ENOMEM)
    process.locks_future = future
    if current or not future:
        for mapping in list(process.mappings):
            change(state, process, mapping, mapping, locked=current)
    if current:
        for mapping in list(process.mappings):
            fill(state, process, mapping.start, mapping.end, ignore=True)
    return Outcome()


def munlockall(state: State, process: Process) -> Outcome:
    """munlockall(2)"""
    process.locks_future = False
    for mapping in list(process.mappings):
        change(state, process, mapping, mapping, locked=False)
    return Outcome()


def _whole_pages(start: int, length: int) -> tuple[int, int]:
    return start // PAGE * PAGE, -(-(start + length) // PAGE) * PAGE


def _set(state: State, process: Process, start: int, end: int, locked: bool) -> Outcome:
    """One mapping after the other: what stands before one that is refused, or before a gap, is done."""
    gap = unmapped_from(process, start, end)
    for mapping, part in list(within(process, start, gap)):
        if not change(state, process, mapping, part, locked=locked):
            return Outcome(-1, errno.EINVAL)
    return Outcome(-1, errno.ENOMEM) if gap < end else Outcome()
