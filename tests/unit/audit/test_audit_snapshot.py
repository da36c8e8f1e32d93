# SPDX-License-Identifier: MIT
"""Snapshots: what is written is read, and nothing else is, whatever it is."""

import gzip
import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up import database, shared_now
from ptshare.audit import snapshot
from ptshare.audit.model import Audit
from ptshare.audit.snapshot import SnapshotError


@pytest.mark.parametrize(
    "audit", [database(3), shared_now(), database(2, counted=5, shared_tables=0, partial=["x"])]
)
def test_what_is_written_is_read(audit: Audit) -> None:
    text = snapshot.dump(audit)
    assert text.isascii()
    assert text.count("\n") == 1
    found = snapshot.load(text.encode())
    # In the file, those are first of which most can be saved.
    assert found.objects == audit.by_saving()
    found.objects = audit.objects
    assert found == audit
    assert snapshot.dump(found) == text


def test_what_is_computed_agrees() -> None:
    value = snapshot.as_json(database(1500))
    buffers, odd = value["objects"]
    assert buffers["tables_bytes"] == 1500 * 16 << 20
    assert buffers["duplicate_bytes"] == buffers["saved_by_sharing_bytes"] == 1499 * 16 << 20
    assert buffers["saved_by_huge_pages_bytes"] == 1500 * 16 << 20
    assert (buffers["obstacle"], odd["obstacle"]) == (None, "private mapping")
    assert value["host"]["duplicate_bytes"] == 1499 * 16 << 20
    assert buffers["commands"][0] == {"command": "postgres", "mappers": 1499, "tables": 1499 * 4096}
    now = snapshot.as_json(shared_now())
    assert now["host"]["saved_now_bytes"] == now["objects"][0]["saved_now_bytes"] == 1499 * 16 << 20


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = database(50)
    text = snapshot.dump(audit)
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    plain.write_bytes(snapshot.pack(text, plain.name))
    packed.write_bytes(snapshot.pack(text, packed.name))
    assert plain.read_text() == text
    assert packed.stat().st_size * 4 < plain.stat().st_size
    assert gzip.decompress(packed.read_bytes()).decode() == text
    for path in (plain, packed):
        assert snapshot.dump(snapshot.read(str(path))) == text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        assert snapshot.dump(snapshot.read("-")) == text
    with pytest.raises(FileNotFoundError):
        snapshot.read(str(tmp_path / "none"))


def test_what_was_added_later_is_passed_over() -> None:
    value = snapshot.as_json(database(2))
    value["more"] = value["host"]["more"] = value["objects"][0]["more"] = {"deep": [1]}
    assert snapshot.load(json.dumps(value).encode()) is not None


def changed(*path: str | int, to: Any) -> bytes:
    """A snapshot in which one value is another."""
    value: Any = snapshot.as_json(database(2))
    top = value
    for step in path[:-1]:
        value = value[step]
    if to is ...:
        del value[path[-1]]
    else:
        value[path[-1]] = to
    return json.dumps(top).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is not JSON (it is cut?)"),
        (b"[]", "the whole is [], not an object"),
        (b"{}", "its format is None, not 'ptshare-audit'"),
        (b'{"format": "other"}', "its format is 'other'"),
        (b"\xff\xfe{}", "it is not JSON"),
        (b"\x1f\x8b but no gzip", "it begins as gzip does and cannot be unpacked"),
        (b"[" * 90_000, "it is nested too deep"),
        (b"[" * 200_000, "it has 200,000 times '['"),
        (b"[" + b"{}," * 500_000, "it has 500,000 times '{'"),
        (b"[" + b"0," * 5_000_000, "it has 5,000,000 times ','"),
        (b" " * (33 << 20), "it has more than 32 MiB"),
        (b'{"format": "ptshare-audit", "version": 1e999}', "'version' of the whole is inf"),
        (b'{"format": "ptshare-audit", "version": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (changed("version", to=2), "it is of version 2, this ptshare reads up to 1: update it"),
        (changed("version", to=True), "'version' of the whole is True"),
        (changed("host", to=...), "'host' is None, not an object"),
        (
            changed("host", "page_tables_bytes", to=-1),
            "'page_tables_bytes' of 'host' is -1, not a whole number",
        ),
        (changed("host", "page_tables_bytes", to=1 << 63), "not a whole number from 0 to"),
        (changed("host", "page_tables_bytes", to=1.5), "is 1.5, not a whole number"),
        (changed("host", "page_tables_bytes", to="1"), "is '1', not a whole number"),
        (
            changed("host", "page_bytes", to=4095),
            "pages of 4095 bytes and granules of 2097152 are not to be had",
        ),
        (changed("host", "granule_bytes", to=0), "granules of 0"),
        (changed("host", "time", to=float("nan")), "'time' of 'host' is nan, not a number of seconds"),
        (changed("host", "huge_unknown", to=0), "is 0, not true or false"),
        (changed("host", "name", to="x" * 9000), "not a text of at most 8192 characters"),
        (changed("host", "partial", to=[1]), "not a list of texts"),
        (changed("objects", to={}), "'objects' of the whole is {}, not a list"),
        (changed("objects", 0, to=None), "objects[0] is None, not an object"),
        (changed("objects", 0, "kind", to="../../etc"), "'../../etc' is no kind of object"),
        (changed("objects", 0, "tables", to=...), "'tables' of objects[0] is missing"),
        (changed("processes", 1, "pid", to=None), "'pid' of processes[1] is None"),
        (changed("unread", 0, "examples", to=["x"] * 2000), "not a list of texts"),
    ],
)
def test_what_is_no_snapshot(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    path.write_bytes(data)
    with pytest.raises(SnapshotError) as raised:
        snapshot.read(str(path))
    assert str(raised.value).startswith(f"{path} is no snapshot of ptshare audit that can be read: ")
    assert words in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("packed", [False, True])
def test_one_that_is_cut(packed: bool, tmp_path: Path) -> None:
    data = snapshot.pack(snapshot.dump(database(2)), "x.gz" if packed else "x")
    path = tmp_path / "cut"
    for length in range(0, len(data) - 1, 7):
        path.write_bytes(data[:length])
        with pytest.raises(SnapshotError, match=r"cut|not JSON|unpacked"):
            snapshot.read(str(path))


VALID = snapshot.dump(database(2)).encode()


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 12), st.binary(max_size=12)), max_size=6
    )
)
def test_one_that_was_tampered_with(changes: list[tuple[int, int, bytes]]) -> None:
    data = bytearray(VALID)
    for at, length, new in changes:
        data[at : at + length] = new
    try:
        found = snapshot.load(bytes(data))
    except SnapshotError:
        return
    assert snapshot.load(snapshot.dump(found).encode()).host == found.host


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_other_json(value: object) -> None:
    with pytest.raises(SnapshotError):
        snapshot.load(json.dumps(value).encode())


#: Reads a snapshot with little memory.
READER = """
import resource, sys
from ptshare.audit import snapshot
import json, zlib
limit = 400 << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    snapshot.read(sys.argv[1])
except snapshot.SnapshotError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: gzip.compress(bytes(2 << 30), 1), id="2 GiB packed to 9 MiB"),
        pytest.param(lambda: b"[" + b"{}," * 390_000 + b"{}]", id="objects"),
        pytest.param(lambda: b"[" + b"123456789," * 3_000_000 + b"0]", id="numbers"),
        pytest.param(lambda: b'["' + b"x" * (31 << 20) + b'"]', id="one text"),
    ],
)
def test_memory_is_bounded(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(data())
    read = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    assert "is no snapshot" in read.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4 << 20
