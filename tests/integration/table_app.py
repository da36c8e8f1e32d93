# SPDX-License-Identifier: MIT
"""A WSGI application for gunicorn's ``preload_app``: one table in memory, which the workers only read.

The master makes the table when it loads this module, before it makes its workers. The variable ``TABLE_MIB``
says how large.

- ``/entry/N``: the entry N
- ``/scan``: the worker's process, and the sum of all entries, which it has all read
"""

import mmap
import os
import struct
import time
from collections.abc import Callable, Iterable

import ptshare

SIZE = int(os.environ.get("TABLE_MIB", "256")) << 20
ENTRIES = SIZE // mmap.PAGESIZE
#: An entry fills a page, so that whoever has read all entries has all pages mapped. It begins with its value.
ENTRY = struct.Struct(f"=I{mmap.PAGESIZE - 4}x")


def make_table() -> ptshare.Mapping:
    """The table: of each entry the value is its number, times 7."""
    table = ptshare.Mapping(None, "r+", length=SIZE, page_tables="auto")
    for number in range(ENTRIES):
        ENTRY.pack_into(table, number * ENTRY.size, number * 7)
    return table


TABLE = make_table()


def app(
    environ: dict[str, str], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """The application."""
    _, what, *rest = environ["PATH_INFO"].split("/")
    if what == "entry" and rest and rest[0].isdecimal() and int(rest[0]) < ENTRIES:
        (value,) = ENTRY.unpack_from(TABLE, int(rest[0]) * ENTRY.size)
        status, text = "200 OK", str(value)
    elif what == "scan":
        # While this worker is busy the next request goes to another one.
        time.sleep(0.2)
        total = sum(value for (value,) in ENTRY.iter_unpack(TABLE))
        status, text = "200 OK", f"{os.getpid()} {total}"
    else:
        status, text = "404 Not Found", "no such entry"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]
