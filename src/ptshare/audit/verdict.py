# SPDX-License-Identifier: MIT
"""What an audit comes to, in a sentence or two."""

import errno
import os

from ptshare.audit.model import Audit, MappedObject
from ptshare.audit.words import command_of, plain
from ptshare.sizes import format_bytes

__all__ = ["verdict"]

#: What is not worth a change: so little; or a bit more, if it is no more than this part of all tables.
_NOTHING_BYTES = 1 << 20
_LITTLE_BYTES = 16 << 20
_LITTLE_PART = 0.02
#: What the kernel says where one must be root. errno(3): EACCES, EPERM
_FOR_ROOT = (os.strerror(errno.EACCES), os.strerror(errno.EPERM))


def verdict(audit: Audit) -> str:
    """What is spent, on what, and what would help."""
    if audit.scope and not audit.processes and not audit.unread:
        return f"No process to be seen is in all that was asked for: {plain(audit.scope)}."
    total = audit.vm_pte if audit.scope else audit.host.page_tables
    words = f"{format_bytes(total)} of page tables"
    if audit.saved_now:
        words += f", {format_bytes(audit.saved_now)} saved by shared tables"
    duplicate = audit.duplicate
    unknown = _unknown(audit, total)
    if _little(duplicate, total):
        words += f", {format_bytes(duplicate)} duplicate"
        if unknown:
            return f"{words} in what could be read; how much in all is not known: {unknown}."
        return f"{words}: little to gain."
    top, *_ = audit.by_saving()
    saved = top.saved_by_sharing(audit.host.granule) * audit.host.page
    words += f", {format_bytes(duplicate)} duplicate, {_part(saved, duplicate)} from {_what(top)}; "
    remedies = _remedies(audit, top, duplicate)
    if unknown:
        remedies.append(f"perhaps there is more: {unknown}")
    return words + "; ".join(remedies) + "."


def _little(duplicate: int, total: int) -> bool:
    return duplicate < _NOTHING_BYTES or (duplicate < _LITTLE_BYTES and duplicate < total * _LITTLE_PART)


def _unknown(audit: Audit, total: int) -> str:
    """Why more may be duplicate than is known; empty: no more than would be little."""
    reasons = []
    # Of most that could not be read VmPTE is known: all of it may be duplicate.
    known = [process.vm_pte for process in audit.processes if not process.read]
    count = sum(unread.count for unread in audit.unread)
    unseen = max(0, count - len(known))
    if unseen or not _little(sum(known), total):
        why = f"{count:,} of {len(audit.processes) + unseen:,} processes could not be read"
        if any(unread.reason in _FOR_ROOT for unread in audit.unread):
            why += "; run it as root"
        reasons.append(why)
    if audit.host.partial:
        reasons.append("not all processes of the host are seen")
    return ", and ".join(reasons)


def _part(saved: int, duplicate: int) -> str:
    if saved == duplicate:
        return "all"
    if saved >= 0.9 * duplicate:
        return "nearly all"
    if saved >= 0.5 * duplicate:
        return "most"
    return f"{format_bytes(saved)}"


def _what(item: MappedObject) -> str:
    return f"{command_of(item)} on {plain(item.name) or item.kind}"


def _remedies(audit: Audit, top: MappedObject, duplicate: int) -> list[str]:
    page = audit.host.page
    remedies = []
    huge = top.saved_by_huge_pages * page
    if huge:
        if command_of(top).startswith("postgres"):
            how = "huge_pages=on"
        elif top.kind == "tmpfs":
            how = "mounting it with huge=always"
        elif top.kind == "sysv":
            how = "SHM_HUGETLB"
        else:
            how = "huge pages"
        remedies.append(f"{how} would free {format_bytes(huge)}")
    freed = format_bytes(duplicate)
    if audit.host.shared_tables is None:
        remedies.append(f"MAP_SHARED_PT would free {freed} (this kernel does not have it)")
    else:
        remedies.append(f"MAP_SHARED_PT (ptshare run) would free {freed}")
    return remedies
