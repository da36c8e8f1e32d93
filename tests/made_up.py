# SPDX-License-Identifier: MIT
"""Audits that nobody made: a database, and odd names."""

from ptshare.audit.model import Audit, Host, MappedObject, Process, Unread

GIB = 1 << 30
GRANULE = 2 << 20


def database(connections: int = 1500, size: int = 8 * GIB, **host: object) -> Audit:
    """A PostgreSQL with so many connections, each of which has touched all of its buffers; and a file."""
    tables = size // GRANULE
    buffers = MappedObject(
        device="0:1",
        inode=2059,
        name="/dev/zero (deleted)",
        kind="anonymous",
        size=size,
        mappers=connections,
        tables=tables * connections,
        needed=tables,
        commands={"postgres": (connections - 1, tables * (connections - 1)), "sh": (1, tables)},
    )
    odd = MappedObject(
        device="254:1",
        inode=7,
        name='/srv/\x1b[31mred\nand, "quoted" \\xff',
        kind="file",
        filesystem="ext4",
        shared=False,
        size=GRANULE,
        mappers=2,
        tables=2,
        needed=2,
        commands={"a\tb": (2, 2)},
    )
    processes = [
        Process(1000 + number, "postgres", "postgres", (tables + 20) * 4096, tables)
        for number in range(connections)
    ]
    processes.append(Process(5, "\x1b[2J", "root", 8192, read=False))
    spent = sum(process.vm_pte for process in processes)
    fields: dict[str, object] = {
        "name": "db1",
        "kernel": "6.1.0-54-amd64",
        "time": 1795600000.25,
        "seconds": 1.25,
        "page": 4096,
        "granule": GRANULE,
        "memory": 64 * GIB,
        "page_tables": spent + connections * 4096 + (1 << 20),
        "counted": None,
        "top_level": connections * 4096,
        "shared_tables": None,
        "huge_unknown": False,
        "method": "maps, pagemap",
        "partial": [],
        **host,
    }
    unread = [Unread("Permission denied", 1, ["5 (\x1b[2J)"])]
    gone = Unread("ended meanwhile", 3, ["77", "78 (sh)"])
    machine = Host(**fields)  # type: ignore[arg-type]
    return Audit(machine, processes, [odd, buffers], unread, vanished=gone)


def shared_now() -> Audit:
    """The same with shared page tables."""
    audit = database(shared_tables=4096)
    buffers = audit.objects[1]
    buffers.linked, buffers.linked_needed = buffers.tables, buffers.needed
    buffers.tables = buffers.needed = 0
    for process in audit.processes:
        process.vm_pte, process.tables, process.shared_pt = 80 << 10, 0, 8 * GIB
    audit.host.page_tables = (audit.vm_pte // 4096 + 4096 + 1500) * 4096
    return audit
