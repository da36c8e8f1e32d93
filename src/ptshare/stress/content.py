# SPDX-License-Identifier: MIT
"""What a page holds.

A page is one unit of 32 bytes, over and over. A unit says which file and page it belongs to, which version
of the page it is, who wrote that and in which run, and carries a checksum. So it can be told of any unit
where it comes from, wherever it turns up.

A version is a number that also says who made it, and whether the page is all zeros in it, because a hole was
punched or the file was truncated.
"""

import struct
import zlib

from ptshare.syscalls import PAGE

__all__ = ["CONSTANT", "ZEROS", "consists_of", "content", "describe", "following", "is_zero", "origin"]

#: The first byte is a ``ret`` instruction of x86: a page can be called.
_MAGIC = b"\xc3PTS"

#: magic, file, nothing, page, checksum, version, run
_UNIT = struct.Struct("<4sHHIIQQ")
_UNITS = PAGE // _UNIT.size
#: Where in a unit the version stands.
VERSION_AT = 16

ZEROS = bytes(PAGE)

#: Version of pages that are written without a lock, always the same: whoever comes first or last.
CONSTANT = 1 << 8

_ZERO_BIT = 1


def following(version: int, writer: int, zero: bool) -> int:
    """The version after ``version``.

    :param writer: who makes it, at most 127
    :param zero: it is all zeros
    """
    return ((version >> 8) + 1) << 8 | writer << 1 | zero


def is_zero(version: int) -> bool:
    """The page is all zeros in this version; version 0 is that of a new file."""
    return bool(version & _ZERO_BIT) or version == 0


def _unit(file: int, page: int, version: int, run: int) -> bytes:
    # From 1 on: zeros are what a hole has, too.
    checksum = zlib.crc32(_UNIT.pack(_MAGIC, file + 1, 0, page + 1, 0, version, run))
    return _UNIT.pack(_MAGIC, file + 1, 0, page + 1, checksum, version, run)


def content(file: int, page: int, version: int, run: int) -> bytes:
    """A page in a version.

    :param run: the number of this run
    """
    if is_zero(version):
        return ZEROS
    return _unit(file, page, version, run) * _UNITS


def consists_of(data: bytes, pages: list[bytes]) -> bool:
    """Each byte is that of one of ``pages``: somebody writes, or was killed in the middle of it."""
    if data in pages:
        return True
    return all(byte in those for byte, *those in zip(data, *pages, strict=True))


def belongs(data: bytes, file: int, page: int, run: int) -> bool:
    """Whatever its version, each byte of the page is of this file and page, or zero.

    It is looked at while others write, so the units need not be whole.
    """
    own = content(file, page, CONSTANT, run)
    step = _UNIT.size
    for at in (*range(12), *range(24, step)):
        if any(byte not in (0, own[at]) for byte in data[at::step]):
            return False
    return True


def origin(unit: bytes) -> str:
    """Where a unit comes from, in words."""
    if not any(unit):
        return "zeros"
    magic, file, nothing, page, checksum, version, run = _UNIT.unpack(unit)
    if magic != _MAGIC or nothing:
        return f"no page of a stress run: {unit.hex()}"
    words = f"file {file - 1} page {page - 1} version {version >> 8} "
    words += f"by process {version >> 1 & 127} of run {run:x}"
    whole = zlib.crc32(_UNIT.pack(magic, file, 0, page, 0, version, run)) == checksum
    return words if whole else f"{words}, with a wrong checksum: {unit.hex()}"


def describe(data: bytes) -> str:
    """What a page holds, in words: runs of equal units, the first few."""
    runs: list[tuple[int, bytes]] = []
    for at in range(0, len(data), _UNIT.size):
        unit = data[at : at + _UNIT.size]
        if not runs or runs[-1][1] != unit:
            runs.append((at, unit))
    words = [f"{origin(unit)} (from byte {at} on)" if at else origin(unit) for at, unit in runs[:6]]
    if len(runs) > 6:
        words.append(f"{len(runs) - 6} more pieces")
    return "; ".join(words)
