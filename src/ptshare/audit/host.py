# SPDX-License-Identifier: MIT
"""What the machine as a whole says of its page tables, and what of it cannot be seen from here."""

import os
import re
import threading
from collections.abc import Collection
from pathlib import Path

from ptshare import counters
from ptshare.audit import proc
from ptshare.audit.model import Host, Process

__all__ = ["Counting", "read", "small", "top_level"]

#: How large a machine may be for all of its pages to be looked at unasked: about a second.
_SMALL = 32 << 30
#: KPF_PGTABLE, 26, of an entry of /proc/kpageflags: bit 2 of its byte 3.
#: include/uapi/linux/kernel-page-flags.h
_NO_PGTABLE = bytes(byte for byte in range(256) if not byte & 4)
_FLAGS = 8
#: Inode of /proc/PID/ns/pid for the first PID namespace. include/linux/proc_ns.h
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


def read(root: str, now: float, page: int, granule: int, method: str, huge_unknown: bool) -> Host:
    """The machine.

    :param now: seconds since 1970
    :param method: how mappings were found, in words
    :param huge_unknown: huge pages could not be told apart
    """
    base = Path(root or "/")
    counters.fold_per_cpu(base)
    memory = proc.meminfo(root)
    sharing = counters.sharing_counters(base)
    mapped_huge = memory.get("ShmemPmdMapped", 0) + memory.get("FilePmdMapped", 0)
    return Host(
        name=_line(root, "proc/sys/kernel/hostname"),
        kernel=_line(root, "proc/sys/kernel/osrelease"),
        time=now,
        seconds=0.0,
        page=page,
        granule=granule,
        memory=memory.get("MemTotal", 0),
        page_tables=memory.get("PageTables", 0),
        counted=None,
        top_level=0,
        shared_tables=None if sharing is None else sharing.tables,
        huge_unknown=huge_unknown and bool(mapped_huge),
        method=method,
        partial=_hidden(root),
    )


def _line(root: str, path: str) -> str:
    try:
        return os.fsdecode(proc.read_file(f"{root}/{path}")).strip()
    except OSError:
        return ""


def _hidden(root: str) -> list[str]:
    """Why processes cannot be seen that there are."""
    reasons = []
    options = _proc_options(root)
    hidden = re.search(r"hidepid=(\w+)", options)
    if hidden and hidden[1] not in ("0", "off") and not os.path.exists(f"{root}/proc/1/status"):
        reasons.append(f"/proc is mounted with hidepid={hidden[1]}: other users' processes are not seen")
    try:
        namespace = os.readlink(f"{root}/proc/self/ns/pid")
    except OSError:
        namespace = _FIRST_PID_NAMESPACE
    if namespace != _FIRST_PID_NAMESPACE:
        reasons.append("in a PID namespace (a container): processes outside of it are not seen")
    return reasons


def _proc_options(root: str) -> str:
    """Options of what is mounted on /proc: the last of several is on top."""
    found = ""
    for line in _line(root, "proc/self/mountinfo").split("\n"):
        left, _, right = line.partition(" - ")
        if left.split()[4:5] == ["/proc"]:
            found = right
    return found


def top_level(found: Host, processes: Collection[Process]) -> int:
    """Bytes of the processes' tables of the top level.

    Old kernels do not count them in PageTables, new ones do, and none does in VmPTE. It is told by whether
    there is room for them in PageTables.

    :param processes: all of the host
    """
    known = sum(process.vm_pte for process in processes) + (found.shared_tables or 0) * found.page
    expected = len(processes) * found.page
    return expected if found.page_tables - known >= expected else 0


def small(root: str) -> bool:
    """May all pages of the machine be looked at unasked, and is it allowed?"""
    return proc.meminfo(root).get("MemTotal", 0) <= _SMALL and os.access(f"{root}/proc/kpageflags", os.R_OK)


class Counting:
    """Counts the page-table pages that the kernel has marked so, meanwhile.

    :param root: see :mod:`ptshare.audit.proc`
    """

    def __init__(self, root: str) -> None:
        self._path = f"{root}/proc/kpageflags"
        self._pages: int | None = None
        self._thread = threading.Thread(target=self._count, name="kpageflags")
        self._thread.start()

    def result(self) -> int | None:
        """Bytes; ``None``: it is not allowed, or there is no such file."""
        self._thread.join()
        return None if self._pages is None else self._pages * os.sysconf("SC_PAGESIZE")

    def _count(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        pages = 0
        try:
            while flags := os.read(fd, _FLAGS << 17):
                pages += len(flags[3::_FLAGS].translate(None, _NO_PGTABLE))
        except OSError:
            return
        finally:
            os.close(fd)
        self._pages = pages
