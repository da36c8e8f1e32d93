# SPDX-License-Identifier: MIT
"""Short programs of a few processes, a line a call.

::

    # a comment
    file data 4G
    A mmap data 0 2G rw at 1T
    A mmap data 0 4M r at 2T readonly      # of the file opened for reading
    A mmap data 0 4M rw at 3T ordinary     # without MAP_SHARED_PT
    A read 1T                              # one byte
    A read 1T+2M 4M                        # all pages of a range
    A write 1T
    B fork A
    B mprotect 1T 4K r
    B dontneed 1T 2M
    B munmap 1T 1G
    B exit

A process begins with its first line, or as another's child.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ptshare.sizes import parse_bytes

__all__ = ["Fork", "MakeFile", "Map", "Plain", "Script", "ScriptError", "Step", "place", "say_place"]

_RIGHTS = {"r": 1, "w": 2, "x": 4, "-": 0}
#: Calls with an address and perhaps a length.
_WITH_RANGE = {"read": "1T, or: 1T 2M", "write": "1T", "munmap": "1T 2M", "dontneed": "1T 2M"}
_CALLS = "mmap, read, write, mprotect, munmap, dontneed, fork, exit"
_PAGE = 4096


class ScriptError(ValueError):
    """A line is not understood: which one, what was wanted, what was found."""


class MakeFile(NamedTuple):
    """``file NAME SIZE``"""

    name: str
    size: int


class Map(NamedTuple):
    """``P mmap FILE OFFSET LENGTH RIGHTS at ADDRESS [readonly] [ordinary]``"""

    process: str
    file: str
    offset: int
    length: int
    prot: int
    address: int
    readonly: bool = False
    ordinary: bool = False


class Fork(NamedTuple):
    """``CHILD fork PARENT``"""

    process: str
    parent: str


class Plain(NamedTuple):
    """Any other call.

    :param length: 0 for one byte
    :param prot: of mprotect
    """

    process: str
    call: str
    address: int = 0
    length: int = 0
    prot: int = 0


Step = MakeFile | Map | Fork | Plain


@dataclass(frozen=True)
class Script:
    """A program.

    :param lines: as they were written, one for each step
    """

    steps: tuple[Step, ...]
    lines: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Script":
        """A program from its text.

        :raises ScriptError: a line is not understood
        """
        parser = _Parser()
        steps, lines = [], []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            try:
                steps.append(parser.step(words))
            except ValueError as error:
                raise ScriptError(f"line {number}: {error}") from None
            lines.append(" ".join(words))
        if not any(isinstance(step, Map) for step in steps):
            raise ScriptError(
                "wanted a program that maps a file, found none: such as 'A mmap data 0 2M rw at 1T'"
            )
        return cls(tuple(steps), tuple(lines))


class _Parser:
    def __init__(self) -> None:
        self.files: set[str] = set()
        self.alive: set[str] = set()
        self.gone: set[str] = set()

    def step(self, words: Sequence[str]) -> Step:
        if words[0] == "file":
            return self._file(words)
        name = words[0]
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name, re.ASCII):
            raise ValueError(f"wanted a process such as A, or 'file NAME SIZE', found {name!r}")
        if name in self.gone:
            raise ValueError(f"{name} has ended, so it can do nothing; take another name")
        if len(words) < 2:
            raise ValueError(f"wanted a call of {name}, one of {_CALLS}; found nothing")
        if words[1] == "fork":
            return self._fork(words)
        self.alive.add(name)
        return self._call(words)

    def _file(self, words: Sequence[str]) -> Step:
        if len(words) != 3:
            raise ValueError(f"wanted 'file NAME SIZE', such as 'file data 4G', found {' '.join(words)!r}")
        if words[1] in self.files:
            raise ValueError(f"wanted a new file, found {words[1]!r}, which is there already")
        self.files.add(words[1])
        return MakeFile(words[1], parse_bytes(words[2]))

    def _fork(self, words: Sequence[str]) -> Step:
        if len(words) != 3:
            raise ValueError(f"wanted 'CHILD fork PARENT', such as 'B fork A', found {' '.join(words)!r}")
        child, parent = words[0], words[2]
        if parent not in self.alive:
            raise ValueError(f"wanted a parent that is there, found {parent!r}")
        if child in self.alive:
            raise ValueError(f"wanted a new name for the child, found {child!r}, which is there already")
        self.alive.add(child)
        return Fork(child, parent)

    def _call(self, words: Sequence[str]) -> Step:
        name, call, *rest = words
        if call == "mmap":
            return self._map(name, rest)
        if call == "exit" and not rest:
            self.alive.discard(name)
            self.gone.add(name)
            return Plain(name, call)
        if call == "mprotect" and len(rest) == 3:
            return Plain(name, call, place(rest[0]), parse_bytes(rest[1]), _prot(rest[2]))
        if call in ("munmap", "dontneed") and len(rest) == 2:
            return Plain(name, call, place(rest[0]), parse_bytes(rest[1]))
        if (call == "read" and len(rest) in (1, 2)) or (call == "write" and len(rest) == 1):
            length = parse_bytes(rest[1]) if len(rest) == 2 else 0
            if length % _PAGE:
                raise ValueError(f"wanted whole pages of 4 KiB, found {rest[1]!r}")
            return Plain(name, call, place(rest[0]), length)
        forms = {**_WITH_RANGE, "mprotect": "1T 4K r", "exit": ""}
        if call in forms:
            wanted = f"{name} {call} {forms[call]}".strip()
            raise ValueError(f"wanted such as '{wanted}', found {' '.join(words)!r}")
        raise ValueError(f"wanted one of {_CALLS}; found {call!r}")

    def _map(self, name: str, rest: Sequence[str]) -> Step:
        options = rest[6:]
        if len(rest) < 6 or rest[4] != "at" or set(options) - {"readonly", "ordinary"}:
            found = " ".join((name, "mmap", *rest))
            raise ValueError(
                f"wanted '{name} mmap FILE OFFSET LENGTH RIGHTS at ADDRESS', perhaps with 'readonly' or "
                f"'ordinary', such as '{name} mmap data 0 2G rw at 1T', found {found!r}"
            )
        if rest[0] not in self.files:
            raise ValueError(f"wanted a file that a line before has made, found {rest[0]!r}")
        offset, length, prot, address = place(rest[1]), parse_bytes(rest[2]), _prot(rest[3]), place(rest[5])
        return Map(name, rest[0], offset, length, prot, address, "readonly" in options, "ordinary" in options)


def _prot(text: str) -> int:
    if not text or set(text) - set(_RIGHTS):
        raise ValueError(f"wanted rights such as rw, r, rx or -, found {text!r}")
    return sum({_RIGHTS[letter] for letter in text})


def place(text: str) -> int:
    """An address or offset: a size, hexadecimal, or a sum of such: ``1T``, ``0x10000000000``, ``1T+2M``.

    :raises ValueError: it is none
    """
    total = 0
    for part in text.split("+"):
        hexadecimal = re.fullmatch(r"0[xX][0-9a-fA-F]+", part)
        total += int(part, 16) if hexadecimal else parse_bytes(part)
    if total >= 1 << 47:
        raise ValueError(f"wanted an address below 128T, found {text!r}")
    return total


def say_place(value: int) -> str:
    """An address as :func:`place` reads it: a sum of one or two parts, else hexadecimal."""
    parts, rest = [], value
    for unit, letter in ((1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if count := rest // unit:
            parts.append(f"{count}{letter}")
            rest %= unit
    if rest or len(parts) > 2:
        return f"{value:#x}"
    return "+".join(parts) or "0"
