# SPDX-License-Identifier: MIT
"""An audit as metrics, in the text format of Prometheus: for node_exporter's textfile collector.

Sets of labels are bounded: the objects and commands that cost most have their own, the others one together,
and no process number is ever one.
"""

from collections.abc import Iterable, Iterator

from ptshare.audit.model import Audit
from ptshare.audit.words import plain

__all__ = ["LABELS", "metrics"]

#: Label sets of a metric at most, with that of all others.
LABELS = 20
_NAME_CHARACTERS = 200


def metrics(audit: Audit) -> str:
    """The metrics, text that ends with a newline."""
    return "\n".join(_lines(audit)) + "\n"


def _lines(audit: Audit) -> Iterator[str]:
    host = audit.host
    yield from _gauge("page_tables_bytes", "PageTables of /proc/meminfo.", [("", host.page_tables)])
    yield from _gauge(
        "page_tables_explained_bytes", "Page tables known to be of processes.", [("", audit.explained)]
    )
    yield from _gauge(
        "page_tables_duplicate_bytes",
        "Page tables that MAP_SHARED_PT would save, of processes that could be read.",
        [("", audit.duplicate)],
    )
    yield from _gauge(
        "page_tables_saved_bytes", "Page tables that shared page tables save now.", [("", audit.saved_now)]
    )
    yield from _objects(audit)
    yield from _commands(audit)
    yield from _gauge("audit_processes", "Processes in the audit.", [("", len(audit.processes))])
    unread = sum(unread.count for unread in audit.unread)
    yield from _gauge("audit_unread_processes", "Processes that could not be read.", [("", unread)])
    yield from _gauge(
        "audit_partial", "1: not all processes of the host can be seen.", [("", int(bool(host.partial)))]
    )
    yield from _gauge("audit_seconds", "How long the audit took.", [("", round(host.seconds, 3))])
    yield from _gauge(
        "audit_time_seconds", "When the audit was made, since 1970.", [("", round(host.time, 3))]
    )


def _objects(audit: Audit) -> Iterator[str]:
    page, granule = audit.host.page, audit.host.granule
    # Several objects may have one name: each connection's buffer, say.
    sums: dict[tuple[str, str], list[int]] = {}
    for item in audit.by_saving():
        key: tuple[str, str] = (item.kind, plain(item.name)[:_NAME_CHARACTERS])
        if key not in sums and len(sums) >= LABELS - 1:
            key = ("other", "")
        values = sums.setdefault(key, [0, 0, 0, 0])
        values[0] += item.tables * page
        values[1] += item.saved_by_sharing(granule) * page
        values[2] += item.saved_by_huge_pages * page
        values[3] += item.mappers
    labels = {key: f'{{kind="{key[0]}",object="{_escaped(key[1])}"}}' for key in sums}
    for index, (name, words) in enumerate(
        (
            ("object_page_tables_bytes", "Page tables that processes spend on an object."),
            ("object_duplicate_bytes", "Of these, what MAP_SHARED_PT would save."),
            ("object_huge_pages_bytes", "Of these, what huge pages would save."),
            ("object_mappers", "Processes that have it mapped."),
        )
    ):
        yield from _gauge(name, words, [(labels[key], values[index]) for key, values in sums.items()])


def _commands(audit: Audit) -> Iterator[str]:
    # By what is printed: a label set that comes twice would have node_exporter refuse the whole scrape.
    sums: dict[str, int] = {}
    for process in audit.processes:
        name = plain(process.command)
        sums[name] = sums.get(name, 0) + process.vm_pte
    nameless = sums.pop("", None)
    ordered = sorted(sums.items(), key=lambda entry: (-entry[1], entry[0]))
    values = [(f'{{command="{_escaped(name)}"}}', value) for name, value in ordered[: LABELS - 1]]
    rest = [value for _, value in ordered[LABELS - 1 :]]
    if nameless is not None:
        rest.append(nameless)
    if rest:
        values.append(('{command=""}', sum(rest)))
    yield from _gauge("command_page_tables_bytes", "VmPTE of the processes of a name.", values)


def _gauge(name: str, words: str, values: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP ptshare_{name} {words}"
    yield f"# TYPE ptshare_{name} gauge"
    for labels, value in values:
        yield f"ptshare_{name}{labels} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
