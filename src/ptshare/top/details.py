# SPDX-License-Identifier: MIT
"""Texts that are shown in the place of the table: help, details of a row, the verdict. Long lines are for
the terminal's width to break.
"""

import time
from collections.abc import Iterator

from ptshare.audit.model import Host, MappedObject, Process
from ptshare.audit.words import plain
from ptshare.sizes import format_bytes
from ptshare.top.rows import OBJECTS, PROCESSES, Frame, Row, rate

__all__ = ["help_lines", "row_lines", "verdict_lines"]

_KEYS = (
    ("Arrows PgUp PgDn Home End", ""),
    ("", "move; the mark stays with its row, at the top it stays at the top"),
    ("Tab", "objects or processes"),
    ("Space Enter", "details: of an object, who maps it"),
    ("F3 /", "search; F3 Shift-F3 next and former, Enter done; then n and N"),
    ("F4 \\", "filter, Enter done, Esc all again; a|b: one of both"),
    ("F6 >", "choose the column to sort by"),
    ("I", "invert the order"),
    ("v", "the verdict in full, and what could not be read"),
    ("p Z", "pause, and go on"),
    ("r", "refresh now, also in a pause"),
    ("F1 ? h", "this help"),
    ("q F10 Ctrl-C", "quit; but of a page like this q and F10 are the end only of it"),
    ("Ctrl-L Ctrl-Z", "draw anew; stop, as any program in a shell"),
    ("Mouse", "a heading: sort; a line: mark; a key below: press"),
)


def help_lines() -> list[str]:
    """Keys, and what the columns mean."""
    found = [f"{keys:<14} {meaning}".rstrip() for keys, meaning in _KEYS]
    for title, columns in (("Objects", OBJECTS), ("Processes", PROCESSES)):
        found += ["", title, *(f"{column.name:<10} {column.meaning}" for column in columns)]
    found += ["", "K, M, G: KiB, MiB, GiB. -: not known, or it cannot be. See docs/top.md."]
    return found


def verdict_lines(shown: Frame | None, problem: str) -> list[str]:
    """The verdict, and what is missing in it.

    :param problem: why the last refresh failed
    """
    found = [problem, ""] if problem else []
    if shown is None:
        return [*found, "nothing has been read yet"]
    audit = shown.sample.audit
    found += [shown.verdict, ""]
    if audit.scope:
        found.append(f"asked for: {plain(audit.scope)}")
    found += [f"not all of the host: {plain(reason)}" for reason in audit.host.partial]
    for unread in audit.unread:
        examples = ", ".join(map(plain, unread.examples))
        more = ", ..." if unread.count > len(unread.examples) else ""
        found.append(f"{unread.count:,} could not be read: {plain(unread.reason)}: {examples}{more}")
    if audit.vanished.count:
        found.append(f"{audit.vanished.count:,} ended meanwhile")
    if audit.host.huge_unknown:
        found.append(
            "this kernel does not tell huge pages apart (6.7 does): what has some shows too many tables"
        )
    found.append(f"by {plain(audit.host.method)} in {audit.host.seconds:.2f} s")
    return found


def row_lines(row: Row, shown: Frame, gone: bool) -> list[str]:
    """All that is known of a row.

    :param shown: what it is of
    :param gone: it is no longer there
    """
    host = shown.sample.audit.host
    item = row.item
    found = [f"gone; as it was at {clock(host)}:", ""] if gone else []
    lines = _object(row, item, host) if isinstance(item, MappedObject) else _process(row, item, shown)
    return [*found, *lines]


def clock(host: Host) -> str:
    """The time of an audit."""
    return time.strftime("%H:%M:%S", time.localtime(host.time))


def _line(name: str, value: str, remark: str = "") -> str:
    return f"{name:<13} {value}{f' ({remark})' if remark else ''}"


def _grown(row: Row) -> str:
    value = row.values["GROWTH"]
    if value is None or isinstance(value, str):
        return ""
    return f"{'+' if value > 0 else ''}{format_bytes(value)} since the last refresh"


def _object(row: Row, item: MappedObject, host: Host) -> Iterator[str]:
    page, obstacle = host.page, item.obstacle(host.granule)
    yield _line("name", str(row.values["OBJECT"]))
    how = "" if item.kind == "private" else ", MAP_SHARED" if item.shared else ", MAP_PRIVATE"
    yield _line("kind", f"{item.kind}{how}", plain(item.filesystem))
    if item.kind != "private":
        yield _line("file", f"device {plain(item.device)}, inode {item.inode}")
        yield _line("size", format_bytes(item.size), "from the first to the last byte that is mapped")
    yield _line("page tables", format_bytes(item.tables * page), _grown(row))
    yield _line("needed once", format_bytes(item.needed * page), "one for each granule and right")
    saving = format_bytes(item.saved_by_sharing(host.granule) * page)
    yield _line("sharing", f"saves {saving}" if obstacle is None else f"cannot be: {obstacle}")
    if item.saved_by_huge_pages:
        yield _line("huge pages", f"save {format_bytes(item.saved_by_huge_pages * page)}")
    if item.linked:
        reached = f"{item.linked:,} granules of processes through {item.linked_needed:,} tables"
        yield _line("shared now", f"saves {format_bytes(item.saved_now * page)}", reached)
    yield ""
    yield f"mapped by {item.mappers:,}:"
    yield f"{'processes':>9}  {'page tables':>11}  name"
    order = sorted(item.commands.items(), key=lambda entry: (-entry[1][1], -entry[1][0], entry[0]))
    for command, (mappers, tables) in order:
        yield f"{mappers:>9,}  {format_bytes(tables * page):>11}  {plain(command)}"


def _process(row: Row, item: Process, shown: Frame) -> Iterator[str]:
    page = shown.sample.audit.host.page
    stat = shown.sample.stats.get(item.pid)
    yield _line("process", f"{item.pid} {plain(item.command)}")
    yield _line("user", plain(item.user))
    yield _line("page tables", format_bytes(item.vm_pte), _grown(row))
    if item.read:
        yield _line("of objects", format_bytes(item.tables * page))
        yield _line("others", format_bytes(item.unattributed(page)), "upper levels, small mappings")
    else:
        yield _line("of objects", "its mappings cannot be read")
    if item.shared_pt is not None:
        yield _line("shared", format_bytes(item.shared_pt), "memory that it maps through shared tables")
    for name, kind in (("minor", "MINFLT/s"), ("major", "MAJFLT/s")):
        so_far = ""
        if stat is not None:
            so_far = f"{stat.faults.minor if name == 'minor' else stat.faults.major:,} so far"
        yield _line(f"{name} faults", f"{rate(row.values[kind])} a second", so_far)
    if stat is not None and stat.line.strip():
        yield ""
        yield plain(stat.line.strip())
