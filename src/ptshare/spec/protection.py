# SPDX-License-Identifier: MIT
"""mprotect, pkey_mprotect, mseal, and memory that is never writable and executable. Of a guest the protection
is the domain's."""

import errno

from ptshare.spec.entries import PAGE
from ptshare.spec.mappings import change, unmapped_from, within
from ptshare.spec.reach import flush, flush_file, with_protection
from ptshare.spec.state import EXECUTE, HOST_BASE, WRITE, Mapping, Outcome, Process, State

__all__ = ["mprotect", "mseal"]


def mprotect(state: State, process: Process, start: int, length: int, prot: int, key: int = -1) -> Outcome:
    """mprotect(2), and pkey_mprotect(2) with a key other than -1.

    Of one mapping all that can be wrong is found first. Of several, one after the other is done, as ever:
    what stands before one that is refused, or before a gap, has changed.
    """
    end = start + -(-length // PAGE) * PAGE
    if start % PAGE:
        return Outcome(-1, errno.EINVAL)
    if end == start:
        return Outcome()
    if key != -1 and key not in process.keys:
        return Outcome(-1, errno.EINVAL)
    gap = unmapped_from(process, start, end)
    for mapping, part in list(within(process, start, gap)):
        number = _not_allowed(process, part, prot, key)
        if number:
            return Outcome(-1, number)
        if part.domain:
            _protect_domain(state, part, prot)
        else:
            _protect_own(state, process, mapping, part, prot, key)
    return Outcome(-1, errno.ENOMEM) if gap < end else Outcome()


def _not_allowed(process: Process, part: Mapping, prot: int, key: int) -> int:
    """Why a part of a mapping cannot have a protection, in the kernel's order."""
    if part.domain and key > 0:
        return errno.EINVAL
    if prot & ~part.may:
        return errno.EACCES
    if part.domain is None:
        if process.mdwe and _gains_execution(part.prot, prot):
            return errno.EACCES
        return errno.EPERM if part.sealed else 0
    if part.sealed:
        return errno.EPERM
    # A reader could otherwise take a public file away from all others who read it.
    if not part.may & WRITE:
        return errno.EACCES
    # Also if the caller is a child that has not inherited what its parent denied itself.
    if process.mdwe or part.domain.access.mdwe:
        standing = {part.protection_at(address) for address in range(part.start, part.end, PAGE)}
        if any(_gains_execution(old, prot) for old in standing):
            return errno.EACCES
    return 0


def _gains_execution(old: int, new: int) -> bool:
    """Executable memory that can be written, or that was not executable before."""
    return bool(new & EXECUTE) and bool(new & WRITE or not old & EXECUTE)


def _protect_domain(state: State, part: Mapping, prot: int) -> None:
    assert part.domain
    domain, first, end = part.domain, part.page(part.start), part.page(part.end)
    for page in range(first, end):
        domain.protection[page] = prot
        if prot == domain.access.asked:
            del domain.protection[page]
    low, high = HOST_BASE + first * PAGE, HOST_BASE + end * PAGE
    for address, value in list(domain.tables.pages(low, high)):
        domain.tables.set(address, with_protection(value, prot))
    # Whoever has linked the table may hold the former right: not only the caller's CPUs.
    flush_file(state, domain.file, first, end)


def _protect_own(
    state: State, process: Process, mapping: Mapping, part: Mapping, prot: int, key: int
) -> None:
    change(state, process, mapping, part, prot=prot, key=part.key if key == -1 else key)
    for address, value in list(process.tables.pages(part.start, part.end)):
        process.tables.set(address, with_protection(value, prot))
    flush(state, process, part.start, part.end)


def mseal(state: State, process: Process, start: int, length: int) -> Outcome:
    """mseal(2): the caller can no longer unmap, move or protect the range. Others of the class can still
    change its protection, which is theirs, too.
    """
    end = start + -(-length // PAGE) * PAGE
    if start % PAGE:
        return Outcome(-1, errno.EINVAL)
    if unmapped_from(process, start, end) < end:
        return Outcome(-1, errno.ENOMEM)
    for mapping, part in list(within(process, start, end)):
        if not change(state, process, mapping, part, sealed=True):
            return Outcome(-1, errno.EINVAL)
    return Outcome()
