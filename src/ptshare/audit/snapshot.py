# SPDX-License-Identifier: MIT
"""An audit as JSON, and back: what ``--json`` prints, ``--save`` keeps and ``--from`` reads.

docs/audit-format.md tells each field. Reading trusts nothing: a snapshot comes from another host.
"""

import json
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, get_args

from ptshare.audit.model import Audit, Host, Kind, MappedObject, Process, Unread
from ptshare.audit.words import path_name

__all__ = ["FORMAT", "VERSION", "SnapshotError", "as_json", "dump", "load", "read"]

FORMAT = "ptshare-audit"
VERSION = 1

#: Bytes of a snapshot at most, unpacked. One of 2,000 processes has 250 kB.
MAX_BYTES = 32 << 20
#: How many of these characters it may have: each is an object, a list, or a value that takes memory.
_MAX_COUNTS = {b"{": 400_000, b"[": 100_000, b",": 4_000_000}
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
_MAX_TEXT = 8192
_MAX_NUMBER = (1 << 63) - 1


class SnapshotError(ValueError):
    """It is no snapshot that can be read."""


def as_json(audit: Audit) -> dict[str, Any]:
    """An audit as JSON values. What can be computed from other fields is there for readers in other
    languages, and is not read back.
    """
    host, page, granule = audit.host, audit.host.page, audit.host.granule
    return {
        "format": FORMAT,
        "version": VERSION,
        "scope": audit.scope,
        "host": {
            "name": host.name,
            "kernel": host.kernel,
            "time": host.time,
            "seconds": round(host.seconds, 3),
            "page_bytes": page,
            "granule_bytes": granule,
            "memory_bytes": host.memory,
            "page_tables_bytes": host.page_tables,
            "counted_bytes": host.counted,
            "top_level_bytes": host.top_level,
            "shared_tables": host.shared_tables,
            "huge_unknown": host.huge_unknown,
            "method": host.method,
            "partial": host.partial,
            "vm_pte_bytes": audit.vm_pte,
            "explained_bytes": audit.explained,
            "attributed_bytes": audit.attributed,
            "duplicate_bytes": audit.duplicate,
            "saved_now_bytes": audit.saved_now,
        },
        "objects": [
            {
                "device": item.device,
                "inode": item.inode,
                "name": item.name,
                "kind": item.kind,
                "filesystem": item.filesystem,
                "shared": item.shared,
                "size_bytes": item.size,
                "mappers": item.mappers,
                "tables": item.tables,
                "needed": item.needed,
                "linked": item.linked,
                "linked_needed": item.linked_needed,
                "aligned": item.aligned,
                "estimated": item.estimated,
                "tables_bytes": item.tables * page,
                "duplicate_bytes": item.duplicate * page,
                "obstacle": item.obstacle(granule),
                "saved_by_sharing_bytes": item.saved_by_sharing(granule) * page,
                "saved_by_huge_pages_bytes": item.saved_by_huge_pages * page,
                "saved_now_bytes": item.saved_now * page,
                "commands": [
                    {"command": command, "mappers": mappers, "tables": tables}
                    for command, (mappers, tables) in sorted(
                        item.commands.items(), key=lambda entry: (-entry[1][1], -entry[1][0], entry[0])
                    )
                ],
            }
            for item in audit.by_saving()
        ],
        "processes": [
            {
                "pid": process.pid,
                "command": process.command,
                "user": process.user,
                "vm_pte_bytes": process.vm_pte,
                "tables": process.tables,
                "unattributed_bytes": process.unattributed(page),
                "shared_pt_bytes": process.shared_pt,
                "read": process.read,
            }
            for process in audit.processes
        ],
        "unread": [
            {"reason": unread.reason, "count": unread.count, "examples": unread.examples}
            for unread in audit.unread
        ],
        "vanished": {"count": audit.vanished.count, "examples": audit.vanished.examples},
    }


def dump(audit: Audit) -> str:
    """An audit as JSON text, ASCII."""
    return json.dumps(as_json(audit), separators=(",", ":")) + "\n"


def read(path: str) -> Audit:
    """The audit in a file; ``-``: standard input. It may be packed by gzip.

    :raises SnapshotError: it is none, is cut, comes from a newer ptshare, or is too large
    :raises OSError: it cannot be read
    """
    try:
        if path == "-":
            if sys.stdin is None:
                raise SnapshotError("it is closed")
            return load(_bounded(sys.stdin.buffer))
        with open(path, "rb") as file:
            return load(_bounded(file))
    except SnapshotError as error:
        name = "standard input" if path == "-" else path_name(path)
        raise SnapshotError(f"{name} is no snapshot of ptshare audit that can be read: {error}") from None


def _bounded(file: IO[bytes]) -> bytes:
    data = file.read(MAX_BYTES + 1)
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        unpacked = unpacker.decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        raise SnapshotError(f"it begins as gzip does and cannot be unpacked: {error}") from None
    if not unpacker.eof and len(unpacked) <= MAX_BYTES:
        raise SnapshotError("it is packed by gzip and cut: copy it again")
    return unpacked


def pack(text: str, path: str) -> bytes:
    """What to write to a file of this name: packed if it ends in .gz."""
    data = text.encode("ascii")
    if not path.endswith(".gz"):
        return data
    import gzip

    return gzip.compress(data, mtime=0)


def load(data: bytes) -> Audit:
    """An audit from JSON text.

    :raises SnapshotError: as :func:`read`
    """
    if len(data) > MAX_BYTES:
        raise SnapshotError(f"it has more than {MAX_BYTES >> 20} MiB")
    for character, most in _MAX_COUNTS.items():
        if (found := data.count(character)) > most:
            raise SnapshotError(f"it has {found:,} times {character.decode()!r}, more than {most:,}")
    try:
        value = json.loads(data)
    except RecursionError:
        raise SnapshotError("it is nested too deep") from None
    except ValueError as error:
        where = " (it is cut?)" if not data.rstrip().endswith(b"}") else ""
        raise SnapshotError(f"it is not JSON{where}: {_short(str(error))}") from None
    top = _Fields(value, "the whole")
    if top.get("format") != FORMAT:
        raise SnapshotError(f"its format is {_short(top.get('format'))}, not {FORMAT!r}")
    version = top.number("version")
    if version > VERSION:
        raise SnapshotError(f"it is of version {version}, this ptshare reads up to {VERSION}: update it")
    return Audit(
        host=_host(top.fields("host")),
        processes=[_process(fields) for fields in top.many("processes")],
        objects=[_object(fields) for fields in top.many("objects")],
        unread=[
            Unread(fields.text("reason"), fields.number("count"), fields.texts("examples"))
            for fields in top.many("unread")
        ],
        scope=top.text("scope"),
        vanished=_vanished(top.fields("vanished")),
    )


def _host(fields: "_Fields") -> Host:
    page, granule = fields.number("page_bytes"), fields.number("granule_bytes")
    if page < 1 << 10 or page & page - 1 or granule < page or granule & granule - 1 or granule > 1 << 40:
        raise SnapshotError(f"pages of {page} bytes and granules of {granule} are not to be had")
    return Host(
        name=fields.text("name"),
        kernel=fields.text("kernel"),
        time=fields.real("time"),
        seconds=fields.real("seconds"),
        page=page,
        granule=granule,
        memory=fields.number("memory_bytes"),
        page_tables=fields.number("page_tables_bytes"),
        counted=fields.maybe("counted_bytes", fields.number),
        top_level=fields.number("top_level_bytes"),
        shared_tables=fields.maybe("shared_tables", fields.number),
        huge_unknown=fields.flag("huge_unknown"),
        method=fields.text("method"),
        partial=fields.texts("partial"),
    )


def _vanished(fields: "_Fields") -> Unread:
    return Unread("ended meanwhile", fields.number("count"), fields.texts("examples"))


def _process(fields: "_Fields") -> Process:
    return Process(
        pid=fields.number("pid"),
        command=fields.text("command"),
        user=fields.text("user"),
        vm_pte=fields.number("vm_pte_bytes"),
        tables=fields.number("tables"),
        shared_pt=fields.maybe("shared_pt_bytes", fields.number),
        read=fields.flag("read"),
    )


def _object(fields: "_Fields") -> MappedObject:
    kind = _KINDS.get(fields.text("kind"))
    if kind is None:
        raise SnapshotError(f"{_short(fields.get('kind'))} is no kind of object")
    return MappedObject(
        device=fields.text("device"),
        inode=fields.number("inode", (1 << 64) - 1),
        name=fields.text("name"),
        kind=kind,
        filesystem=fields.text("filesystem"),
        shared=fields.flag("shared"),
        size=fields.number("size_bytes"),
        mappers=fields.number("mappers"),
        tables=fields.number("tables"),
        linked=fields.number("linked"),
        needed=fields.number("needed"),
        linked_needed=fields.number("linked_needed"),
        aligned=fields.flag("aligned"),
        estimated=fields.number("estimated"),
        commands={
            entry.text("command"): (entry.number("mappers"), entry.number("tables"))
            for entry in fields.many("commands")
        },
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


class _Fields:
    """The fields of a JSON object, each of the type that it must have."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise SnapshotError(f"{where} is {_short(value)}, not an object")
        self._value: dict[str, Any] = value
        self._where = where

    def get(self, name: str) -> object:
        return self._value.get(name)

    def _typed(self, name: str, right: Callable[[object], bool], wanted: str) -> Any:
        value = self._value.get(name)
        if name not in self._value or not right(value):
            found = _short(value) if name in self._value else "missing"
            raise SnapshotError(f"{name!r} of {self._where} is {found}, not {wanted}")
        return value

    def number(self, name: str, most: int = _MAX_NUMBER) -> int:
        def right(value: object) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most

        number: int = self._typed(name, right, f"a whole number from 0 to {most}")
        return number

    def real(self, name: str) -> float:
        def right(value: object) -> bool:
            return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12

        return float(self._typed(name, right, "a number of seconds"))

    def flag(self, name: str) -> bool:
        value: bool = self._typed(name, lambda value: isinstance(value, bool), "true or false")
        return value

    def text(self, name: str) -> str:
        def right(value: object) -> bool:
            return isinstance(value, str) and len(value) <= _MAX_TEXT

        value: str = self._typed(name, right, f"a text of at most {_MAX_TEXT} characters")
        return value

    def texts(self, name: str) -> list[str]:
        def right(value: object) -> bool:
            return (
                isinstance(value, list)
                and len(value) <= 1000
                and all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in value)
            )

        value: list[str] = self._typed(name, right, "a list of texts")
        return value

    def maybe(self, name: str, how: Callable[[str], int]) -> int | None:
        return None if name in self._value and self._value[name] is None else how(name)

    def fields(self, name: str) -> "_Fields":
        return _Fields(self._value.get(name), repr(name))

    def many(self, name: str) -> "Iterator[_Fields]":
        value = self._typed(name, lambda value: isinstance(value, list), "a list")
        return (_Fields(entry, f"{name}[{index}]") for index, entry in enumerate(value))
