# SPDX-License-Identifier: MIT
"""contrib/duckdb/fleet.sql over 10,000 snapshots, compared with Python's own sums, and over odd ones."""

import gzip
import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ptshare.audit import snapshot
from ptshare.audit.model import Audit, Host, Kind, MappedObject, Process, Unread

SQL = Path(__file__).parents[3] / "contrib/duckdb/fleet.sql"
HOSTS = 10_000
PAGE, GRANULE = 4096, 2 << 20
MIB = 1 << 20

#: Statements that the questions build upon.
PREPARATIONS = ("read", "typed", "latest", "objects")

#: A line of a result, by its columns.
Row = dict[str, Any]


def statements() -> dict[str, str]:
    """Those of the file, by name."""
    parts = re.split(r"^-- name: (\w+)$", SQL.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


class Fleet:
    """What the questions answer for the snapshots that a pattern matches."""

    def __init__(self, pattern: str) -> None:
        self._connection = duckdb.connect()
        self._connection.execute(f"SET VARIABLE snapshots = '{pattern}'")
        self._statements = statements()
        for name in PREPARATIONS:
            self._connection.execute(self._statements[name])

    def ask(self, name: str) -> list[Row]:
        cursor = self._connection.execute(self._statements[name])
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def all(self) -> dict[str, list[Row]]:
        return {name: self.ask(name) for name in self._statements if name not in PREPARATIONS}


def made_up(index: int, rng: random.Random) -> Audit:
    """An audit as small hosts have them."""
    objects = []
    kinds: list[tuple[Kind, str, bool]] = [
        ("tmpfs", f"/dev/shm/pool-{index % 7}", True),
        ("memfd", "/memfd:cache (deleted)", True),
        ("file", f"/srv/data{index % 3}.bin", index % 5 != 0),
        ("hugetlb", "/anon_hugepage (deleted)", True),
    ]
    for kind, name, shared in kinds[: 1 + index % 4]:
        mappers = rng.randrange(1, 64)
        needed = rng.randrange(1, 512)
        tables = mappers * needed
        item = MappedObject("0:5", index + 1, name, kind, "tmpfs", shared, needed * GRANULE, mappers, tables)
        item.needed = needed
        item.aligned = index % 11 != 0
        item.commands = {"worker": (mappers, tables - 1), f"tool{index % 40}": (1, 1)}
        if index % 13 == 0:
            item.linked, item.linked_needed = 5 * needed, needed
        objects.append(item)
    processes = [
        Process(pid, command, "root", rng.randrange(1, 1 << 16) << 10, 3)
        for pid, command in enumerate(("systemd", "worker", f"tool{index % 40}"), 1)
    ]
    host = Host(
        name="localhost",  # as a fleet may have them, so that the file's name is what tells hosts apart
        kernel=f"6.{index % 3}",
        time=1.7e9 + index,
        seconds=0.1,
        page=PAGE,
        granule=GRANULE,
        memory=(1 + index % 4) << 33,
        page_tables=sum(process.vm_pte for process in processes) + MIB,
        counted=None,
        top_level=0,
        shared_tables=None,
        huge_unknown=False,
        method="maps, pagemap",
        partial=["in a PID namespace"] if index % 997 == 0 else [],
    )
    unread = [Unread("Permission denied", 1 + index % 9, ["1 (init)"])] if index % 1009 == 0 else []
    return Audit(host, processes, objects, unread)


@pytest.fixture(scope="module")
def audits() -> dict[str, Audit]:
    rng = random.Random(1)
    return {f"host{index:05}": made_up(index, rng) for index in range(HOSTS)}


@pytest.fixture(scope="module")
def answers(audits: dict[str, Audit], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    directory = tmp_path_factory.mktemp("fleet")
    began = time.monotonic()
    for name, audit in audits.items():
        (directory / f"{name}.json").write_text(snapshot.dump(audit))
    written = time.monotonic()
    found = Fleet(f"{directory}/*.json*").all()
    done = time.monotonic()
    print(f"\n{HOSTS} snapshots: {written - began:.1f} s to write, {done - written:.1f} s to read and ask")
    return found


def shown(name: str) -> str:
    return re.sub(r"[0-9]+", "N", name)


def test_total(audits: dict[str, Audit], answers: dict[str, list[Row]]) -> None:
    everything = audits.values()
    items = [item for audit in everything for item in audit.objects]
    assert answers["total"] == [
        {
            "hosts": HOSTS,
            "memory_bytes": sum(audit.host.memory for audit in everything),
            "page_tables_bytes": sum(audit.host.page_tables for audit in everything),
            "explained_bytes": sum(audit.explained for audit in everything),
            "saved_now_bytes": sum(audit.saved_now for audit in everything),
            "sharing_would_save_bytes": sum(audit.duplicate for audit in everything),
            "huge_pages_would_save_bytes": sum(item.saved_by_huge_pages for item in items) * PAGE,
            "better_of_both_bytes": PAGE
            * sum(max(item.saved_by_huge_pages, item.saved_by_sharing(GRANULE)) for item in items),
        }
    ]


def test_hosts(audits: dict[str, Audit], answers: dict[str, list[Row]]) -> None:
    worst = sorted(audits.items(), key=lambda entry: (-entry[1].duplicate, entry[0]))[:20]
    assert answers["hosts"] == [
        {
            "host_name": name,
            "duplicate_bytes": audit.duplicate,
            "page_tables_bytes": audit.host.page_tables,
            "part_of_memory": pytest.approx(audit.duplicate / audit.host.memory, abs=6e-5),
            "kernel": audit.host.kernel,
        }
        for name, audit in worst
    ]


def test_objects(audits: dict[str, Audit], answers: dict[str, list[Row]]) -> None:
    hosts: dict[tuple[str, str], set[str]] = defaultdict(set)
    sums: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name, audit in audits.items():
        for item in audit.objects:
            key = (item.kind, shown(item.name))
            hosts[key].add(name)
            sums[key]["mappers"] += item.mappers
            sums[key]["tables_bytes"] += item.tables * PAGE
            sums[key]["sharing_would_save_bytes"] += item.saved_by_sharing(GRANULE) * PAGE
            sums[key]["huge_pages_would_save_bytes"] += item.saved_by_huge_pages * PAGE
    found = answers["by_object"]
    assert {row["what"] for row in found} == {shown(name) for _, name in sums}
    order = [(-row["sharing_would_save_bytes"], -row["tables_bytes"]) for row in found]
    assert order == sorted(order)
    for row in found:
        key = (row.pop("kind"), row.pop("what"))
        assert row == {"hosts": len(hosts[key]), **sums[key]}


def test_commands(audits: dict[str, Audit], answers: dict[str, list[Row]]) -> None:
    tables: Counter[str] = Counter()
    on_objects: Counter[str] = Counter()
    hosts: dict[str, set[str]] = defaultdict(set)
    for name, audit in audits.items():
        for process in audit.processes:
            tables[process.command] += process.vm_pte
            hosts[process.command].add(name)
        for item in audit.objects:
            for command, (_, count) in item.commands.items():
                on_objects[command] += count * PAGE
    assert answers["by_command"] == [
        {
            "command": command,
            "hosts": len(hosts[command]),
            "vm_pte_bytes": value,
            "on_objects_bytes": on_objects[command],
        }
        for command, value in sorted(tables.items(), key=lambda entry: (-entry[1], entry[0]))[:20]
    ]


def test_obstacles(audits: dict[str, Audit], answers: dict[str, list[Row]]) -> None:
    sums: dict[tuple[str, str | None], list[int]] = defaultdict(lambda: [0, 0, 0])
    for audit in audits.values():
        for item in audit.objects:
            values = sums[item.kind, item.obstacle(GRANULE)]
            values[0] += 1
            values[1] += item.duplicate * PAGE
            values[2] += item.saved_by_huge_pages * PAGE
    found = {
        (row["kind"], row["obstacle"]): [
            row["objects"],
            row["duplicate_bytes"],
            row["huge_pages_would_save_bytes"],
        ]
        for row in answers["obstacles"]
    }
    assert found == {key: values for key, values in sums.items() if values[1]}
    assert {"alignment", "huge pages", None} <= {obstacle for _, obstacle in found}


def test_partial(audits: dict[str, Audit], answers: dict[str, list[Row]]) -> None:
    expected = []
    for name, audit in audits.items():
        reasons = audit.host.partial + [unread.reason for unread in audit.unread]
        if reasons:
            expected.append((sum(unread.count for unread in audit.unread), name, reasons))
    expected.sort(key=lambda entry: (-entry[0], entry[1]))
    found = [(row["unread_processes"], row["host_name"], row["reasons"]) for row in answers["partial"]]
    assert found == expected
    assert answers["unusable"] == []


# Odd ones


def plain_audit() -> Audit:
    return made_up(2, random.Random(2))


def with_change(change: Callable[[Any], object]) -> str:
    value = snapshot.as_json(plain_audit())
    change(value)
    return json.dumps(value)


def test_newer_fields_are_passed_over(tmp_path: Path) -> None:
    def change(value: Any) -> None:
        value["new"] = {"deep": [1, {"x": None}]}
        value["host"]["new"] = [1]
        value["objects"][0]["new"] = {"a": 1}
        value["objects"][0]["commands"][0]["new"] = "x"
        value["processes"][0]["new"] = 1.5
        value["processes"].append(value["processes"][0])

    (tmp_path / "a.json").write_text(snapshot.dump(plain_audit()))
    before = Fleet(f"{tmp_path}/*.json").all()
    (tmp_path / "a.json").write_text(with_change(change))
    after = Fleet(f"{tmp_path}/*.json").all()
    assert before.pop("by_command") != after.pop("by_command")  # one process more
    assert after == before


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(objects=[], processes=[], unread=[]),
        lambda value: value.update(objects=None, processes=None, unread=None, scope=None, vanished=None),
        lambda value: value.update(objects=[None], processes=[None], unread=[None]),
        lambda value: [value.pop(name) for name in ("objects", "processes", "unread", "scope")],
    ],
    ids=["empty", "null", "of null", "missing"],
)
def test_without_objects(tmp_path: Path, change: Callable[[Any], object]) -> None:
    (tmp_path / "odd.json").write_text(with_change(change))
    (tmp_path / "plain.json").write_text(snapshot.dump(plain_audit()))
    answers = Fleet(f"{tmp_path}/*.json").all()
    audit = plain_audit()
    (total,) = answers["total"]
    assert total["hosts"] == 2
    assert total["page_tables_bytes"] == 2 * audit.host.page_tables
    assert total["sharing_would_save_bytes"] == audit.duplicate
    assert sum(row["vm_pte_bytes"] for row in answers["by_command"]) == audit.vm_pte
    assert answers["partial"] == answers["unusable"] == []


def test_nulls_inside(tmp_path: Path) -> None:
    def change(value: Any) -> None:
        for name in value["host"]:
            value["host"][name] = None
        for name in value["objects"][0]:
            value["objects"][0][name] = None
        value["processes"][0] = dict.fromkeys(value["processes"][0])
        value["unread"] = [{"reason": None, "count": None, "examples": None}]

    (tmp_path / "odd.json").write_text(with_change(change))
    (tmp_path / "plain.json").write_text(snapshot.dump(plain_audit()))
    answers = Fleet(f"{tmp_path}/*.json").all()
    assert answers["total"][0]["hosts"] == 2
    assert answers["total"][0]["page_tables_bytes"] == plain_audit().host.page_tables
    assert [row["host_name"] for row in answers["hosts"]] == ["plain", "odd"]
    assert [(row["host_name"], row["unread_processes"]) for row in answers["partial"]] == [("odd", 0)]


def test_what_is_none_is_told_of(tmp_path: Path) -> None:
    text = snapshot.dump(plain_audit())
    files = {
        "cut.json": text[: len(text) // 2],
        "empty.json": "",
        "other.json": '{"format": "something else", "version": 1}\n',
        "list.json": "[1, 2]\n",
        "words.json": "no snapshot\n",
        "lines.json": json.dumps(json.loads(text), indent=1),
        "newer.json": text.replace('"version":1', '"version":2'),
        "hostless.json": text.replace('"host":', '"hosts":'),
        "scoped.json": text.replace('"scope":""', '"scope":"pid 1"'),
        "right.json": text,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(text.encode()))
    fleet = Fleet(f"{tmp_path}/*.json*")
    assert {Path(row["file"]).name: row["why"] for row in fleet.ask("unusable")} == {
        "cut.json": "no snapshot, or cut, or not in one line",
        "empty.json": "empty",
        "other.json": "no snapshot, or cut, or not in one line",
        "list.json": "no snapshot, or cut, or not in one line",
        "words.json": "no snapshot, or cut, or not in one line",
        "lines.json": "no snapshot, or cut, or not in one line",
        "newer.json": "of another version",
        "hostless.json": "without a host",
        "scoped.json": "of some processes alone",
    }
    assert [row["host_name"] for row in fleet.ask("hosts")] == ["packed", "right"]


def test_no_file_that_matches(tmp_path: Path) -> None:
    """The error that docs/fleet.md tells of."""
    said = "No files found that match the pattern"
    with pytest.raises(duckdb.IOException, match=said):
        Fleet(str(tmp_path / "*.json"))
    assert f"IO Error: {said}" in (SQL.parents[2] / "docs/fleet.md").read_text()


def test_newest_of_each_host(tmp_path: Path) -> None:
    for day, index in (("1", 3), ("3", 7), ("2", 11)):
        (tmp_path / day).mkdir()
        audit = made_up(index, random.Random(index))
        audit.host.time = 1.7e9 + int(day)
        (tmp_path / day / "web.example.json").write_text(snapshot.dump(audit))
    (row,) = Fleet(f"{tmp_path}/*/*.json*").ask("hosts")
    audit = made_up(7, random.Random(7))
    assert (row["host_name"], row["page_tables_bytes"]) == ("web.example", audit.host.page_tables)


def test_largest_numbers(tmp_path: Path) -> None:
    for name in ("a", "b"):
        audit = plain_audit()
        audit.host.page_tables = (1 << 63) - 1
        audit.objects[0].inode = (1 << 64) - 1
        (tmp_path / f"{name}.json").write_text(snapshot.dump(audit))
    (total,) = Fleet(f"{tmp_path}/*.json").ask("total")
    assert total["page_tables_bytes"] == 2 * ((1 << 63) - 1)
