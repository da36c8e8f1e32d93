# SPDX-License-Identifier: MIT
"""The picture from the page tables themselves: the kernel's file ``ptshare/tables`` in debugfs. The kernel's
Documentation/mm/ptshare.rst says what stands in it.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ptshare.abi import TABLES
from ptshare.explain.picture import LEVELS, Domain, Entry, Guest, Picture, Process, Table
from ptshare.support import probe

__all__ = ["KernelFileError", "available", "name_files", "parse", "read"]

_PAGE_SHIFT = 12


class KernelFileError(Exception):
    """The kernel's file cannot be had, or is not understood; says what to do."""


def available() -> bool:
    """Can the kernel's answer be had?"""
    return os.access(TABLES, os.R_OK)


def read() -> Picture:
    """What the running kernel says.

    :raises KernelFileError: why it cannot be had
    """
    try:
        text = Path(TABLES).read_text(encoding="ascii")
    except PermissionError as error:
        if error.errno == errno.EPERM and os.geteuid() == 0:
            raise KernelFileError(f"the kernel is locked down and does not let {TABLES} be opened") from None
        raise KernelFileError(f"only root can read {TABLES}; use sudo") from None
    except OSError as error:
        raise KernelFileError(_missing(error)) from None
    return parse(text)


def _missing(error: OSError) -> str:
    reason = probe().reason
    if reason is not None:
        needed = "the kernel's own answer needs one with MAP_SHARED_PT"
        return f"{needed}: {reason}; --script works anywhere, without --kernel"
    if not os.path.ismount("/sys/kernel/debug"):
        return "debugfs is not mounted; mount it: mount -t debugfs none /sys/kernel/debug"
    return f"cannot read {TABLES}: {error.strerror}; the kernel is built without CONFIG_DEBUG_FS, or is older"


def parse(text: str) -> Picture:
    """What stands in the file.

    :raises KernelFileError: a line is not understood
    """
    parser = _Parser()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            parser.line(line)
        except (KeyError, ValueError, IndexError, AssertionError) as error:
            raise KernelFileError(
                f"{TABLES}, line {number}: {line.strip()!r} is not understood ({error}); "
                "kernel and command are of different versions"
            ) from None
    return parser.finish()


class _Parser:
    def __init__(self) -> None:
        self.picture = Picture(addresses=True)
        self._mms: dict[str, Process] = {}
        self._mm: Process | None = None

    def line(self, line: str) -> None:
        word, *rest = line.split()
        values = dict(field.split("=", 1) for field in rest)
        if word == "domain":
            self._mm = None
            name = f"inode {values['inode']} of {values['dev']}"
            self.picture.domains.append(
                Domain(int(values["id"]), name, values["asked"], values["may"], values["mdwe"] == "1")
            )
        elif word == "table":
            offset, links = int(values["offset"], 16), int(values["links"])
            self._domain.tables.append(Table(_level(values), offset, _address(values["pfn"]), links))
        elif word == "guest":
            self._guest(values)
        elif word in ("own", "link"):
            assert self._mm is not None, "no guest came before"
            domain = self._domain.number if word == "link" else None
            start, key = int(values["start"], 16), _address(values["pfn"])
            self._mm.entries.append(Entry(_level(values), start, key, domain))
        # Words that are not known are of a newer kernel.

    @property
    def _domain(self) -> Domain:
        assert self.picture.domains, "no domain came before"
        return self.picture.domains[-1]

    def _guest(self, values: Mapping[str, str]) -> None:
        # What tells an mm from others is its topmost table; a process can have gone, or be one of several.
        self._mm = self._mms.get(values["pgd"])
        if self._mm is None:
            pid = int(values["pid"])
            name = f"process {pid}" if pid else "no process"
            self._mm = self._mms[values["pgd"]] = Process(name, pid)
        start, end, offset = (int(values[name], 16) for name in ("start", "end", "offset"))
        guest = Guest(start, end, offset, self._domain.number)
        if guest not in self._mm.guests:
            self._mm.guests.append(guest)

    def finish(self) -> Picture:
        self.picture.processes = sorted(self._mms.values(), key=lambda process: process.pid)
        for process in self.picture.processes:
            process.guests.sort()
            process.sort()
        return self.picture


def _level(values: Mapping[str, str]) -> int:
    return LEVELS.index(values["level"])


def _address(frame: str) -> str:
    return f"{int(frame, 16) << _PAGE_SHIFT:#x}"


def name_files(picture: Picture, pids: Sequence[int]) -> None:
    """Call files and processes as /proc does."""
    for process in picture.processes:
        if process.pid not in pids:
            continue
        try:
            command = Path(f"/proc/{process.pid}/comm").read_text(errors="replace").strip()
            lines = Path(f"/proc/{process.pid}/maps").read_text(errors="replace").splitlines()
        except OSError:
            continue  # it has gone
        process.name = f"{command}, process {process.pid}"
        starts = {}
        for line in lines:
            fields = line.split(maxsplit=5)
            starts[int(fields[0].partition("-")[0], 16)] = fields[5:]
        for guest in process.guests:
            if path := starts.get(guest.start):
                picture.domain(guest.domain).file = path[0]
