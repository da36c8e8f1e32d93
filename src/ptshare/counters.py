# SPDX-License-Identifier: MIT
"""The kernel's own counters of page tables and faults.

Every function that reads a file takes ``root``, a str or os.PathLike: the directory under which ``proc``
and ``sys`` stand, so that a recorded tree can be read in the place of the running kernel's.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ptshare import abi

__all__ = [
    "ProcessTables",
    "SharingCounters",
    "fold_per_cpu",
    "mem_available_kib",
    "minor_faults",
    "page_tables_kib",
    "process_tables",
    "sharing_counters",
]

Root = str | os.PathLike[str]

ROOT = Path("/")


@dataclass(frozen=True)
class ProcessTables:
    """Page tables of one process, from /proc/PID/status.

    :param own_kib: VmPTE, KiB of page tables that belong to the process alone
    :param shared_kib: VmSharedPT, KiB of memory that it maps through shared tables, ``None``: the kernel
        has no such line
    """

    own_kib: int
    shared_kib: int | None


@dataclass(frozen=True)
class SharingCounters:
    """The files of /sys/kernel/mm/ptshare.

    :param granule: bytes that one shared table maps
    :param domains: sets of tables in use, one per file and access class
    :param guests: mappings that are attached to a domain
    :param tables: page-table pages that the domains hold
    :param enabled: new mappings are granted
    """

    granule: int
    domains: int
    guests: int
    tables: int
    enabled: bool


def fold_per_cpu(root: Root = ROOT) -> bool:
    """Have the kernel add up what each CPU has counted on its own; needs root.

    Without it a figure of /proc/meminfo can be some hundred KiB behind, until the kernel does the same by
    itself, about once a second (Documentation/admin-guide/sysctl/vm.rst, stat_refresh).

    :returns: whether it was done
    """
    try:
        (Path(root) / "proc/sys/vm/stat_refresh").read_bytes()
    except OSError:
        return False
    return True


def mem_available_kib(root: Root = ROOT) -> int:
    """MemAvailable of /proc/meminfo, KiB."""
    return _kib(Path(root) / "proc/meminfo", "MemAvailable")


def minor_faults() -> int:
    """Page faults of the calling process so far that needed no I/O (getrusage(2), ru_minflt)."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def page_tables_kib(root: Root = ROOT) -> int:
    """PageTables of /proc/meminfo, KiB: all page tables of the machine, each shared one once."""
    return _kib(Path(root) / "proc/meminfo", "PageTables")


def process_tables(pid: int | None = None, root: Root = ROOT) -> ProcessTables:
    """Page tables of the process ``pid``, default: the calling one.

    :raises FileNotFoundError: there is no such process
    """
    status = Path(root) / "proc" / ("self" if pid is None else str(pid)) / "status"
    fields = _fields(status)
    shared = fields.get(abi.VM_SHARED_PT_FIELD)
    return ProcessTables(
        own_kib=_number(fields, "VmPTE", status), shared_kib=None if shared is None else int(shared)
    )


def sharing_counters(root: Root = ROOT) -> SharingCounters | None:
    """The feature's counters, ``None`` on a kernel without it."""
    directory = Path(root) / abi.SYSFS.lstrip("/")

    def value(name: str) -> int:
        return int((directory / name).read_text())

    try:
        return SharingCounters(
            granule=value("granule"),
            domains=value("domains"),
            guests=value("guests"),
            tables=value("tables"),
            enabled=bool(value("enabled")),
        )
    except FileNotFoundError:
        return None


def _kib(path: Path, name: str) -> int:
    return _number(_fields(path), name, path)


def _number(fields: dict[str, str], name: str, path: Path) -> int:
    if name not in fields:
        raise ValueError(f"{path} has no line {name}")
    return int(fields[name])


def _fields(path: Path) -> dict[str, str]:
    """Lines of the form ``Name: value [unit]``, name -> first word of the value."""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value.split()[0] for name, _, value in lines if value.strip()}
