# SPDX-License-Identifier: MIT
"""Audits of hosts that there are not."""

from ptshare.audit.model import Audit, Host, MappedObject, Process, Unread
from ptshare.top.sample import Faults, ProcessStat, Sample

__all__ = ["PAGE", "an_object", "audit", "many", "sample"]

PAGE = 4096


def an_object(name: str, tables: int, inode: int = 1, mappers: int = 4, **more: object) -> MappedObject:
    """A memfd of 64 MiB, of postgres if nothing else is said."""
    fields: dict[str, object] = {
        "device": "0:1",
        "inode": inode,
        "name": name,
        "kind": "memfd",
        "size": 64 << 20,
        "mappers": mappers,
        "tables": tables,
        "needed": min(tables, 32),
        "commands": {"postgres": (mappers, tables)},
        **more,
    }
    return MappedObject(**fields)  # type: ignore[arg-type]


def audit(
    objects: list[MappedObject] | None = None, processes: list[Process] | None = None, **more: object
) -> Audit:
    """Of a host that has 1 GiB, and 10 MiB of page tables if nothing else is said.

    :param more: fields of the host
    """
    fields: dict[str, object] = {
        "name": "db1",
        "kernel": "6.1.0",
        "time": 1e9,
        "seconds": 0.25,
        "page": PAGE,
        "granule": 2 << 20,
        "memory": 1 << 30,
        "page_tables": 10 << 20,
        "counted": None,
        "top_level": 0,
        "shared_tables": None,
        "huge_unknown": False,
        "method": "maps, pagemap",
        **more,
    }
    return Audit(Host(**fields), processes or [], objects or [], [])  # type: ignore[arg-type]


def sample(
    found: Audit | None = None, at: float = 100.0, minor: int = 0, major: int = 0, started: int = 7
) -> Sample:
    """At some time, with so many faults of the host and of each process."""
    found = found or audit()
    faults = Faults(minor, major)
    stats = {
        process.pid: ProcessStat(started, faults, f"{process.command} -D /srv") for process in found.processes
    }
    return Sample(found, at, stats, faults)


def many() -> Sample:
    """As of a database server: 40 objects, 40 processes, one of them not to be read."""
    objects = [an_object(f"/dev/shm/table.{number:02}", number, number) for number in range(1, 40)]
    objects.append(an_object("/srv/[bold]data[/bold]\n\x1b[2J", 400, 99, kind="file", filesystem="ext4"))
    processes = [
        Process(1000 + number, "postgres", "postgres", (100 + number) << 10, number) for number in range(39)
    ]
    processes.append(Process(1, "systemd", "root", 80 << 10, read=False))
    found = audit(objects, processes)
    found.unread.append(Unread("Permission denied", 1, ["1 (systemd)"]))
    return sample(found)
