# SPDX-License-Identifier: MIT
"""Mappings come, go and are split, and with them guests, domains, entries and tables."""

from collections.abc import Iterator
from dataclasses import replace

from ptshare.spec.entries import ENTRIES, GIB, GRANULE, PGD, span
from ptshare.spec.files import File
from ptshare.spec.reach import flush
from ptshare.spec.state import AccessClass, Domain, Mapping, Process, State

__all__ = [
    "add",
    "change",
    "clear",
    "cuts_granules",
    "domain_of",
    "remove",
    "replace_with",
    "unmapped_from",
    "within",
]

#: What a whole tree of tables stands for.
_END = span(PGD) * ENTRIES


def add(process: Process, mapping: Mapping) -> None:
    """A mapping more; a guest is counted."""
    process.insert(mapping)
    if mapping.domain:
        mapping.domain.guests += 1


def remove(state: State, process: Process, start: int, end: int) -> None:
    """Of all mappings in a range what lies in it: entries first, then the translations made of them, then the
    tables, and only then what all that led to.
    """
    found = process.within(start, end)
    clear(state, process, start, end)
    for mapping in found:
        rest = [(mapping.start, min(start, mapping.end)), (max(end, mapping.start), mapping.end)]
        replace_with(state, process, mapping, [mapping.part(*one) for one in rest if one[0] < one[1]])
    if found:
        floor = max((one.end for one in process.mappings if one.end <= start), default=0)
        ceiling = min((one.start for one in process.mappings if one.start >= end), default=_END)
        process.tables.free(start, end, floor, ceiling)


def replace_with(state: State, process: Process, mapping: Mapping, parts: list[Mapping]) -> None:
    """Parts of it in the place of a mapping. With its last guest a domain goes, and with it its tables."""
    process.mappings.remove(mapping)
    for part in parts:
        add(process, part)
    if mapping.domain:
        mapping.domain.guests -= 1
        if not mapping.domain.guests:
            state.domains.remove(mapping.domain)
    if mapping.file.anonymous and not _is_mapped(state, mapping.file):
        state.files.remove(mapping.file)


def _is_mapped(state: State, file: File) -> bool:
    return any(one.file is file for process in state.processes.values() for one in process.mappings)


def change(state: State, process: Process, mapping: Mapping, part: Mapping, **values: object) -> bool:
    """Other values for a part of a mapping, which is split for it. A guest is split at granules alone: false,
    and nothing has changed.
    """
    if all(getattr(mapping, name) == value for name, value in values.items()):
        return True
    if mapping.domain and (part.start % GRANULE or part.end % GRANULE):
        return False
    rest = [(mapping.start, part.start), (part.end, mapping.end)]
    parts = [mapping.part(*one) for one in rest if one[0] < one[1]]
    replace_with(state, process, mapping, [*parts, replace(part, **values)])  # type: ignore[arg-type]
    return True


def domain_of(state: State, file: File, access: AccessClass) -> Domain:
    """The domain of a file and access class; a new one, if nobody is a guest of it yet."""
    for domain in state.domains:
        if domain.file is file and domain.access == access:
            return domain
    state.domains.append(Domain(file, access))
    return state.domains[-1]


def within(process: Process, start: int, end: int) -> Iterator[tuple[Mapping, Mapping]]:
    """The mappings that a range touches, and the parts of them that are in it."""
    for mapping in process.within(start, end):
        yield mapping, mapping.part(start, end)


def unmapped_from(process: Process, start: int, end: int) -> int:
    """The first address of a range that is not mapped; its end: none."""
    for mapping in process.within(start, end):
        if mapping.start > start:
            break
        start = mapping.end
    return min(start, end)


def cuts_granules(process: Process, start: int, end: int) -> bool:
    """Would it leave a guest with a part of a granule, if the range was taken away?"""
    return any(
        mapping.domain and (part.start % GRANULE or part.end % GRANULE)
        for mapping, part in within(process, start, end)
    )


def clear(state: State, process: Process, start: int, end: int) -> None:
    """Empty a process's own entries. A link of a GiB of which a part goes is given up as a whole: the rest is
    linked again, by faults.
    """
    for border in (start, end):
        linked = process.tables.linked(border)
        if linked and border % span(linked[0] + 1):
            gib = border // GIB * GIB
            process.tables.clear(gib, gib + GIB)
            flush(state, process, gib, gib + GIB)
    process.tables.clear(start, end)
    flush(state, process, start, end)
