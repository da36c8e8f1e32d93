# SPDX-License-Identifier: MIT
"""The picture as a tree of text. Tables that follow each other and look alike are one line."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ptshare.explain.picture import (
    LEVELS,
    PUDS,
    Domain,
    Entry,
    Picture,
    Process,
    Table,
    leading_to_links,
    span,
    with_ptes,
)
from ptshare.explain.script import say_place

__all__ = ["Group", "Line", "Node", "groups", "side_by_side", "tree", "words", "written"]

#: As many alike are written out, so that their addresses can be compared.
_WRITTEN_OUT = 4


class Line(NamedTuple):
    """A line of the tree.

    :param text: what can be compared with another picture's
    :param address: where the table is in memory; empty in the model
    """

    text: str
    address: str = ""


def written(lines: Sequence[Line]) -> list[str]:
    """Lines with their addresses in a column."""
    width = max((len(line.text) for line in lines if line.address), default=0)
    return [f"{line.text:<{width}}  {line.address}".rstrip() for line in lines]


@dataclass
class Node:
    """A table with those below it, or a link.

    :param target: offset in the file, of a link
    """

    level: int
    start: int
    key: str
    kind: str
    links: int = 0
    domain: int | None = None
    target: int | None = None
    below: list["Node"] = field(default_factory=list)

    def shape(self) -> tuple[object, ...]:
        """What those that are alike have in common: all but the place."""
        distance = None if self.target is None else self.target - self.start
        below = tuple((node.start - self.start, node.shape()) for node in self.below)
        return (self.level, self.kind, self.links, self.domain, distance, below)


@dataclass
class Group:
    """Tables that are alike and follow each other.

    :param below: what is below the first one
    """

    nodes: list[Node]
    below: list["Group"]

    @property
    def first(self) -> Node:
        """The first of them."""
        return self.nodes[0]

    @property
    def end(self) -> int:
        """Where the memory ends that they map."""
        return self.nodes[-1].start + span(self.first.level)


def groups(picture: Picture, of: Domain | Process) -> list[Group]:
    """The tables of a host, or of a process, in groups."""
    if isinstance(of, Domain):
        nodes = [_of_host(table) for table in with_ptes(of.tables)]
    else:
        starts = {
            (domain.number, table.key): table.start for domain in picture.domains for table in domain.tables
        }
        nodes = [_of_process(entry, starts) for entry in leading_to_links(of.entries) if entry.level <= PUDS]
    return _grouped(_nested(nodes))


def _of_host(table: Table) -> Node:
    return Node(table.level, table.start, table.key, "host", table.links)


def _of_process(entry: Entry, starts: dict[tuple[int, str], int]) -> Node:
    if entry.domain is None:
        return Node(entry.level, entry.start, entry.key, "own")
    target = starts.get((entry.domain, entry.key))
    return Node(entry.level, entry.start, entry.key, "link", domain=entry.domain, target=target)


def _nested(nodes: Sequence[Node]) -> list[Node]:
    roots: list[Node] = []
    path: list[Node] = []
    for node in sorted(nodes, key=lambda node: (node.start, -node.level)):
        while path and (path[-1].level <= node.level or path[-1].start + span(path[-1].level) <= node.start):
            path.pop()
        (path[-1].below if path else roots).append(node)
        path.append(node)
    return roots


def _grouped(nodes: Sequence[Node]) -> list[Group]:
    runs: list[list[Node]] = []
    shapes: list[tuple[object, ...]] = []
    for node in nodes:
        shape = node.shape()
        if runs and shapes[-1] == shape and runs[-1][-1].start + span(node.level) == node.start:
            runs[-1].append(node)
        else:
            runs.append([node])
            shapes.append(shape)
    found = []
    for run in runs:
        parts = [run] if len(run) > _WRITTEN_OUT else [[node] for node in run]
        found += [Group(part, _grouped(part[0].below)) for part in parts]
    return found


def tree(picture: Picture) -> list[Line]:
    """The whole picture, hosts first."""
    lines = []
    for domain in picture.domains:
        lines.append(Line(f"host of {domain.name}"))
        lines += _lines(picture, groups(picture, domain), 1)
    for process in picture.processes:
        lines.append(Line(process.name))
        for guest in process.guests:
            window = f"{say_place(guest.start)} to {say_place(guest.end)}"
            domain = picture.domain(guest.domain)
            lines.append(Line(f"  {window}: {domain.name} from {say_place(guest.offset)}"))
        lines += _lines(picture, groups(picture, process), 2)
    return lines


def _lines(picture: Picture, found: Sequence[Group], depth: int) -> Iterator[Line]:
    for group in found:
        indent = "  " * depth
        yield Line(indent + words(group), _addresses(picture, group.nodes))
        # What stands below a group is that of each, so there it has no addresses.
        below = group.below
        if len(group.nodes) > 1 and below:
            yield Line(f"{indent}  each:")
            yield from (line._replace(address="") for line in _lines(picture, below, depth + 2))
        else:
            yield from _lines(picture, below, depth + 1)


def words(group: Group) -> str:
    """A group in words, without addresses in memory."""
    node, count = group.first, len(group.nodes)
    entries = f"table of {LEVELS[node.level].upper()}s"
    where = f"{say_place(node.start)}" if count == 1 else f"{say_place(node.start)} to {say_place(group.end)}"
    each = " each" if count > 1 else ""
    if node.kind == "link":
        what = f"link {where}" if count == 1 else f"{count} links {where}"
        target = "?" if node.target is None else say_place(node.target)
        return f"{what} -> {entries} from {target}"
    said = f"{entries} {where}" if count == 1 else f"{count} {entries.replace('table', 'tables')} {where}"
    if node.kind == "own":
        return f"own {said}"
    if node.links:
        said += f", {node.links} link{'s' if node.links > 1 else ''}{each}"
    return said


def _addresses(picture: Picture, nodes: Sequence[Node]) -> str:
    if not picture.addresses:
        return ""
    return f"@{nodes[0].key}" + (f" .. @{nodes[-1].key}" if len(nodes) > 1 else "")


def side_by_side(left: Sequence[Line], right: Sequence[Line], titles: tuple[str, str]) -> Iterator[str]:
    """Two trees, the same lines next to each other; "<", ">" and "|" mark where they differ."""
    width = max([len(titles[0]), *(len(line.text) for line in left)])
    yield f"{titles[0]:<{width}}     {titles[1]}"
    whole = written(right)
    ours, theirs = [line.text for line in left], [line.text for line in right]
    matcher = difflib.SequenceMatcher(a=ours, b=theirs, autojunk=False)
    for _, low, high, other_low, other_high in matcher.get_opcodes():
        for step in range(max(high - low, other_high - other_low)):
            one = ours[low + step] if low + step < high else None
            at = other_low + step if other_low + step < other_high else None
            mark = "<" if at is None else ">" if one is None else " " if one == theirs[at] else "|"
            yield f"{one or '':<{width}}  {mark}  {'' if at is None else whole[at]}".rstrip()
