# SPDX-License-Identifier: MIT
"""An audit for people."""

from collections.abc import Iterator

from ptshare.audit.model import Audit, MappedObject, Unread
from ptshare.audit.verdict import verdict
from ptshare.audit.words import command_of, plain, short
from ptshare.sizes import format_bytes

__all__ = ["lines"]

_NAME_CHARACTERS = 64
_LINE = "{:>11} {:>11} {:>11} {:>8} {:>11}  {}"


def lines(audit: Audit, objects: int, processes: int) -> Iterator[str]:
    """The audit, lines.

    :param objects: how many to show at most
    :param processes: the same
    """
    host, page = audit.host, audit.host.page
    scope = f", {plain(audit.scope)}" if audit.scope else ""
    yield f"{plain(host.name)}, Linux {plain(host.kernel)}{scope}: {_count(len(audit.processes))}"
    yield ""
    yield verdict(audit)
    yield ""
    yield from _objects(audit, objects)
    if processes and audit.processes:
        yield ""
        yield from _processes(audit, processes)
    yield ""
    yield from _host(audit)
    yield from _remarks(audit)
    geometry = f"a page has {format_bytes(page)}, a table maps {format_bytes(host.granule)}"
    yield f"{geometry}; by {plain(host.method)} in {host.seconds:.2f} s"


def _objects(audit: Audit, most: int) -> Iterator[str]:
    page, granule = audit.host.page, audit.host.granule
    items = audit.by_saving()
    if not items:
        yield "nothing large is mapped" + (" by those that could be read" if audit.unread else "")
        return
    sharing = any(item.linked for item in items)
    yield _LINE.format("saved by", "saved by", "page", "", "", "saved now by" if sharing else "").rstrip()
    yield _LINE.format("sharing", "huge pages", "tables", "mappers", "size", "object, by whom").rstrip()
    for item in items[:most]:
        yield _LINE.format(
            format_bytes(item.saved_by_sharing(granule) * page) if item.obstacle(granule) is None else "-",
            format_bytes(item.saved_by_huge_pages * page) if item.saved_by_huge_pages else "-",
            format_bytes(item.tables * page),
            f"{item.mappers:,}",
            format_bytes(item.size),
            _what(item, granule, page),
        )
    rest = items[most:]
    if rest:
        yield _LINE.format(
            format_bytes(sum(item.saved_by_sharing(granule) for item in rest) * page),
            format_bytes(sum(item.saved_by_huge_pages for item in rest) * page),
            format_bytes(sum(item.tables for item in rest) * page),
            "",
            "",
            f"{len(rest):,} more",
        )


def _what(item: MappedObject, granule: int, page: int) -> str:
    name = short(plain(item.name), _NAME_CHARACTERS) or f"{item.kind} {item.device} inode {item.inode}"
    words = f"{name}, {command_of(item)}"
    others = len(item.commands) - 1
    if others:
        words += f" and {others} other{'s' * (others > 1)}"
    if obstacle := item.obstacle(granule):
        words += f" (cannot be shared: {obstacle})" if item.kind != "private" else ""
    if item.linked:
        words += f" (shared tables save {format_bytes(item.saved_now * page)} now)"
    return words


def _processes(audit: Audit, most: int) -> Iterator[str]:
    page = audit.host.page
    yield _LINE.format("VmPTE", "of objects", "others", "pid", "user", "process")
    for process in sorted(audit.processes, key=lambda process: (-process.vm_pte, process.pid))[:most]:
        yield _LINE.format(
            format_bytes(process.vm_pte),
            format_bytes(process.tables * page) if process.read else "?",
            format_bytes(process.unattributed(page)) if process.read else "?",
            process.pid,
            plain(process.user)[:11],
            plain(process.command),
        )


def _host(audit: Audit) -> Iterator[str]:
    host = audit.host
    part = f" ({host.page_tables / host.memory:.1%} of memory)" if host.memory else ""
    yield f"PageTables {format_bytes(host.page_tables)}{part}"
    if audit.scope:
        yield f"  {format_bytes(audit.vm_pte)} of the processes that were asked for"
        return
    parts = [f"{format_bytes(audit.vm_pte)} of processes, {format_bytes(audit.attributed)} of it of objects"]
    if host.top_level:
        parts.append(f"{format_bytes(host.top_level)} top level")
    if host.shared_tables:
        parts.append(f"{format_bytes(host.shared_tables * host.page)} shared")
    rest = host.page_tables - audit.explained
    if host.page_tables:
        yield (
            f"  {audit.explained / host.page_tables:.1%} explained: {'; '.join(parts)}; "
            f"{format_bytes(rest)} unattributed (the kernel's own)"
        )
    if host.counted is not None:
        yield f"  {format_bytes(host.counted)} counted page by page (KPF_PGTABLE)"


def _remarks(audit: Audit) -> Iterator[str]:
    for reason in audit.host.partial:
        yield f"not all of the host: {plain(reason)}"
    for unread in audit.unread:
        yield f"{_count(unread.count)} could not be read: {plain(unread.reason)}: {_examples(unread)}"
    if estimated := sum(item.estimated for item in audit.objects):
        yield f"{_count(estimated)} of many alike reckoned with by VmPTE; --exact looks at each table"
    if audit.vanished.count:
        yield f"{_count(audit.vanished.count)} ended meanwhile: {_examples(audit.vanished)}"
    if audit.host.huge_unknown:
        yield "this kernel does not tell huge pages apart (6.7 does): what has some shows too many tables"


def _examples(unread: Unread) -> str:
    more = ["..."] if unread.count > len(unread.examples) else []
    return ", ".join([*map(plain, unread.examples), *more])


def _count(count: int) -> str:
    return "1 process" if count == 1 else f"{count:,} processes"
