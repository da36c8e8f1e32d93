# SPDX-License-Identifier: MIT
"""Reading /proc: status, maps and pagemap of a process, and what the whole host says. proc(5)

Functions take ``root``, the directory under which ``proc`` and ``sys`` stand, "" for the running kernel's, so
that a recorded tree can be read in its place.
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "FormatError",
    "Status",
    "Vma",
    "filesystems",
    "in_cgroup",
    "meminfo",
    "parse_maps",
    "parse_status",
    "pids",
    "populated_by_reading",
    "read_fd",
    "read_file",
    "shared_pt_starts",
]

#: Bytes of an entry of /proc/PID/pagemap, and its bits "present" and "swapped" in the last one.
_ENTRY = 8
_POPULATED = 0xC0
_UNPOPULATED_STATES = bytes(state for state in range(256) if not state & _POPULATED)
_CHUNK_GRANULES = 64

_STATUS = re.compile(rb"^(Name|Tgid|PPid|Uid|VmSize|VmHWM|VmPTE|VmSharedPT):[ \t]*([^\n]*)$", re.MULTILINE)

_MAPS = re.compile(
    rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-])([w-])([x-])([sp]) ([0-9a-f]{1,16}) "
    rb"([0-9a-f]{1,8}):([0-9a-f]{1,8}) ([0-9]{1,20})(?: +([^\n]*))?"
)
_SHARED_LINE = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ [r-][w-][x-]s [^\n]*$", re.MULTILINE)
_ESCAPE = re.compile(rb"\\([n\\])")


class FormatError(ValueError):
    """A file of /proc is not what is known of it."""


class Status(NamedTuple):
    """What is needed of /proc/PID/status.

    :param name: with the kernel's escapes undone
    :param uid: the effective one
    :param vm_size: kB
    :param vm_hwm: kB
    :param vm_pte: kB
    :param shared_pt: kB, ``None``: the kernel has no such line
    """

    name: str
    tgid: int
    ppid: int
    uid: int
    vm_size: int
    vm_hwm: int
    vm_pte: int
    shared_pt: int | None


class Vma(NamedTuple):
    """A mapping of a process.

    :param start: address
    :param end: address after its last byte
    :param offset: in the file, bytes
    :param name: of the file, undecodable bytes as os.fsdecode() has them; empty: none
    :param page: bytes of its pages; 0: not told
    """

    start: int
    end: int
    readable: bool
    writable: bool
    executable: bool
    shared: bool
    offset: int
    major: int
    minor: int
    inode: int
    name: str
    page: int = 0


def read_fd(fd: int) -> bytes:
    """All of an open file, from where it stands."""
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def read_file(path: str) -> bytes:
    """All of a file.

    :raises OSError: it cannot be read
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_fd(fd)
    finally:
        os.close(fd)


def pids(root: str = "") -> list[int]:
    """All processes, in order."""
    return sorted(int(name) for name in os.listdir(f"{root}/proc") if name.isascii() and name.isdigit())


def parse_status(data: bytes) -> Status | None:
    """/proc/PID/status.

    :returns: ``None``: it has no memory of its own, as kernel threads and zombies
    :raises FormatError: it is something else
    """
    found = dict(_STATUS.findall(data))
    if b"VmPTE" not in found:
        if b"Name" in found:
            return None
        raise FormatError("there is no Name in the status")
    try:
        shared = found.get(b"VmSharedPT")
        return Status(
            os.fsdecode(_unescape(found[b"Name"])),
            int(found[b"Tgid"]),
            int(found[b"PPid"]),
            int(found[b"Uid"].split()[1]),
            _kb(found.get(b"VmSize", b"0 kB")),
            _kb(found.get(b"VmHWM", b"0 kB")),
            _kb(found[b"VmPTE"]),
            None if shared is None else _kb(shared),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise FormatError(f"the status cannot be read: {error!r}") from None


def _kb(value: bytes) -> int:
    number, unit = value.split()
    kb = int(number)
    if unit != b"kB" or kb < 0:
        raise ValueError(value)
    return kb


def _unescape(name: bytes) -> bytes:
    r"""What the kernel has written with \n and \\ in the name of a process."""
    return _ESCAPE.sub(lambda match: b"\n" if match[1] == b"n" else match[1], name)


def parse_maps(data: bytes, shared_only: bool = False) -> Iterator[Vma]:
    """/proc/PID/maps.

    :param shared_only: pass over private mappings
    :raises FormatError: it is something else
    """
    lines: Iterator[bytes]
    lines = (match[0] for match in _SHARED_LINE.finditer(data)) if shared_only else iter(data.split(b"\n"))
    for line in lines:
        if not line:
            continue
        match = _MAPS.fullmatch(line)
        if match is None:
            raise FormatError(f"not a line of maps: {line[:120]!r}")
        start, end, r, w, x, s, offset, major, minor, inode, name = match.groups()
        yield Vma(
            int(start, 16),
            int(end, 16),
            r == b"r",
            w == b"w",
            x == b"x",
            s == b"s",
            int(offset, 16),
            int(major, 16),
            int(minor, 16),
            int(inode),
            _maps_name(name or b""),
        )


def _maps_name(name: bytes) -> str:
    """A name with the kernel's octal escape of a newline undone."""
    return os.fsdecode(name.replace(b"\\012", b"\n"))


def shared_pt_starts(smaps: bytes) -> set[int]:
    """Where the mappings begin that share their tables: ``pt`` in VmFlags of /proc/PID/smaps."""
    starts, start = set(), 0
    for line in smaps.split(b"\n"):
        if line.startswith(b"VmFlags:"):
            if b"pt" in line.split():
                starts.add(start)
            continue
        match = _MAPS.match(line)
        if match:
            start = int(match[1], 16)
    return starts


def populated_by_reading(fd: int, start: int, end: int, granule: int, page: int) -> Iterator[int]:
    """As :func:`ptshare.audit.ioctls.populated`, by reading /proc/PID/pagemap. Huge pages are not told apart.

    :param page: bytes of a page
    """
    low = start
    while low < end:
        high = min(end, (low // granule + _CHUNK_GRANULES) * granule)
        states = os.pread(fd, (high - low) // page * _ENTRY, low // page * _ENTRY)[_ENTRY - 1 :: _ENTRY]
        at = low
        while at < high:
            following = min(high, (at | granule - 1) + 1)
            part = states[(at - low) // page : (following - low) // page]
            # In C: away with the pages that are not populated.
            if part.translate(None, _UNPOPULATED_STATES):
                yield at
            at = following
        low = high


def meminfo(root: str = "") -> dict[str, int]:
    """/proc/meminfo, bytes; counts of pages as they are.

    :raises FormatError: it is something else
    """
    found = {}
    for line in read_file(f"{root}/proc/meminfo").decode("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if not words or not words[0].isdigit():
            raise FormatError(f"not a line of /proc/meminfo: {line[:80]!r}")
        found[name] = int(words[0]) << (10 if words[1:] == ["kB"] else 0)
    return found


def filesystems(root: str = "", pid: int | None = None) -> dict[str, str]:
    """The type of the file system on each device, "major:minor", that is mounted for a process.

    :param pid: of the process; ``None``: this one
    """
    found = {}
    try:
        data = read_file(f"{root}/proc/{'self' if pid is None else pid}/mountinfo")
    except OSError:
        return {}
    for line in data.decode("utf-8", "replace").split("\n"):
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) > 2 and right:
            found[fields[2]] = right.split()[0]
    return found


def in_cgroup(data: bytes, path: str) -> bool:
    """Is a process in a control group, or in one below it?

    :param data: of /proc/PID/cgroup
    :param path: as "/system.slice/postgresql.service", in any hierarchy
    """
    wanted = "/" + path.strip("/")
    for line in os.fsdecode(data).split("\n"):
        found = line.split(":", 2)[-1]
        if found == wanted or found.startswith(wanted.rstrip("/") + "/"):
            return True
    return False
