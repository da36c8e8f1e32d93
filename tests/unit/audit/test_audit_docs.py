# SPDX-License-Identifier: MIT
"""docs/audit-format.md has each field, column and metric that is written, and no other."""

import copy
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from made_up import database, shared_now
from ptshare.audit import prometheus, rows, snapshot
from ptshare.audit.model import Kind, MappedObject

PAGE = Path(__file__).parents[3] / "docs/audit-format.md"


def tables(section: str) -> list[list[str]]:
    """Rows of all tables below a heading of the second level."""
    text = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (body,) = [part for part in text if part.startswith(f"{section}\n")]
    found = []
    for line in body.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            found.append([cells[0].strip("`"), *cells[1:]])
    assert len({row[0] for row in found}) == len(found)
    return found


FIELDS = {row[0]: row for row in tables("JSON")}


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Fields by path, down to what holds no others."""
    for name, inner in value.items():
        inner_path = f"{path}{name}"
        if isinstance(inner, dict):
            yield from flat(inner, f"{inner_path}.")
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            if path:  # a list within a list has a row of its own
                yield inner_path, inner
            for entry in inner:
                yield from flat(entry, f"{inner_path}[].")
        else:
            yield inner_path, inner


def written() -> list[dict[str, Any]]:
    """Snapshots in which each field has been something else than null, and null where it may be."""
    shared = shared_now()
    shared.host.counted = 1 << 20
    return [snapshot.as_json(database()), snapshot.as_json(shared)]


def holders(value: Any, path: str) -> list[dict[str, Any]]:
    """What has the last field of a path."""
    head, _, _ = path.rpartition(".")
    found = [value]
    for name in filter(None, head.split(".")):
        found = [entry[name.removesuffix("[]")] for entry in found]
        if name.endswith("[]"):
            found = [inner for entry in found for inner in entry]
    return found


TYPES: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "number": (int, float),
    "true or false": bool,
    "list of texts": list,
    "list": list,
    "null": type(None),
}


def test_each_field_and_no_other() -> None:
    assert {path for value in written() for path, _ in flat(value)} == set(FIELDS)


def types(path: str) -> list[str]:
    words = FIELDS[path][1]
    null = words.endswith(" or null")
    return [words.removesuffix(" or null"), *(["null"] if null else [])]


@pytest.mark.parametrize("path", FIELDS)
def test_it_is_of_the_type_that_is_told(path: str) -> None:
    seen = set()
    for value in written():
        for found, content in flat(value):
            if found == path:
                (word,) = [
                    word
                    for word in types(path)
                    if isinstance(content, TYPES[word])
                    and not (word == "number" and isinstance(content, bool))
                ]
                seen.add(word)
    assert seen == set(types(path))


@pytest.mark.parametrize("path", FIELDS)
def test_what_is_not_computed_must_be_there(path: str) -> None:
    name = path.rpartition(".")[2]
    value = copy.deepcopy(written()[0])
    for holder in holders(value, path):
        del holder[name]
    data = json.dumps(value).encode()
    if FIELDS[path][2] == "computed":
        assert snapshot.as_json(snapshot.load(data)) == written()[0]
    else:
        with pytest.raises(snapshot.SnapshotError):
            snapshot.load(data)


@pytest.mark.parametrize("path", [path for path in FIELDS if FIELDS[path][2] != "computed"])
def test_null_is_read_where_it_is_told(path: str) -> None:
    name = path.rpartition(".")[2]
    value = copy.deepcopy(written()[0])
    for holder in holders(value, path):
        holder[name] = None
    data = json.dumps(value).encode()
    if "null" in types(path):
        snapshot.load(data)
    else:
        with pytest.raises(snapshot.SnapshotError):
            snapshot.load(data)


def test_fields_may_be_added_anywhere() -> None:
    value = copy.deepcopy(written()[0])
    for path in FIELDS:
        for holder in holders(value, path):
            holder["added"] = [{"new": None}]
    assert snapshot.as_json(snapshot.load(json.dumps(value).encode())) == written()[0]


def test_version() -> None:
    assert FIELDS["format"][3] == f"`{snapshot.FORMAT}`"
    assert FIELDS["version"][3] == str(snapshot.VERSION)


def test_kinds_and_obstacles() -> None:
    kinds = get_args(Kind)
    assert re.findall(r"`(\w+)`", FIELDS["objects[].kind"][3]) == list(kinds)
    granule = 2 << 20
    obstacles = set()
    for kind in kinds:
        for shared in (True, False):
            for size in (1, granule):
                for aligned in (True, False):
                    item = MappedObject("", 0, "", kind, "", shared, size, aligned=aligned)
                    obstacles.add(item.obstacle(granule))
    told = re.findall(r"`([\w ]+)`", FIELDS["objects[].obstacle"][3])
    assert {*told, None} == obstacles


def test_columns() -> None:
    header, *_ = csv.reader(io.StringIO(rows.as_csv(database())))
    assert [row[0] for row in tables("CSV")] == header


def test_metrics() -> None:
    text = prometheus.metrics(database())
    found: dict[str, set[str]] = {name: set() for name in re.findall(r"^# TYPE (\w+) gauge$", text, re.M)}
    assert len(found) == text.count("# TYPE")
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found[name] |= set(re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', labels))
    told = {row[0]: set(re.findall(r"`(\w+)`", row[1])) for row in tables("Metrics")}
    assert told == found
    assert f"most {prometheus.LABELS} sets of labels: {prometheus.LABELS - 1} objects" in PAGE.read_text()
