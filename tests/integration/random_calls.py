# SPDX-License-Identifier: MIT
"""A program that makes random calls on shared memory and prints what came of each.

``random_calls.py SEED SEQUENCES``. It knows nothing of shared page tables. What it prints must not depend on
whether it has them: addresses are told apart by names, and what the calls return, what the memory holds, and
what may be done with it is what any program sees.
"""

import ctypes
import errno
import mmap
import os
import random
import sys
from dataclasses import dataclass

from ptshare import syscalls
from ptshare.syscalls import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    NONE,
    PAGE,
    RW,
    R,
)

MIB = 1 << 20
#: Places for mappings, far from each other; what is in a place is the program's alone.
PLACES = [0x2000_0000_0000 + number * (1 << 30) for number in range(4)]
SIZES = [8 * MIB, 8 * MIB + 5 * PAGE, 10 * MIB, 13 * MIB - PAGE]
ADVICE = [
    4,
    0,
    1,
    10,
    11,
    16,
    17,
    21,
]  # DONTNEED, NORMAL, RANDOM, DONTFORK, DOFORK, DONTDUMP, DODUMP, PAGEOUT
MOST = 16 * MIB


@dataclass
class Mapped:
    """A mapping that the program has made, whole or what is left of it."""

    addr: int
    length: int


class Program:
    """Random calls, with what they return."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.files = [os.memfd_create(f"file{number}") for number in range(2)]
        for fd in self.files:
            os.ftruncate(fd, 2 * MOST)
        self.mapped: list[Mapped] = []
        self.marks = 0

    def run(self, calls: int) -> None:
        for _ in range(calls):
            names = ["new"] if not self.mapped else _CALLS
            getattr(self, self.random.choice(names))()
        for one in self.mapped:
            self.tell("unmap", one, self.attempt(syscalls.munmap, one.addr, one.length))
        for fd in self.files:
            os.close(fd)

    def tell(self, what: str, one: Mapped | None, *found: object) -> None:
        number = "-" if one is None else self.mapped.index(one) if one in self.mapped else "?"
        print(what, number, *found)

    def attempt(self, call: object, *arguments: object) -> str:
        """``ok``, or the name of the error."""
        try:
            call(*arguments)  # type: ignore[operator]
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "ok"

    def window(self, one: Mapped) -> tuple[int, int]:
        """Some pages of a mapping: often all, a head, a tail, whole granules."""
        kind = self.random.randrange(5)
        pages = one.length // PAGE
        first, last = sorted(self.random.sample(range(pages + 1), 2))
        if kind == 0:
            first, last = 0, pages
        elif kind == 1:
            first = 0
        elif kind == 2:
            last = pages
        elif kind == 3:
            first, last = first // 512 * 512, -(-last // 512) * 512
        return one.addr + first * PAGE, (min(last, pages) - first) * PAGE

    # The calls.

    def new(self) -> None:
        if len(self.mapped) >= 6:
            return
        size = self.random.choice(SIZES)
        fd = self.random.choice([-1, *self.files])
        prot = self.random.choice([RW, RW, RW, R])
        flags = MAP_SHARED | (MAP_ANONYMOUS if fd == -1 else 0)
        offset = 0 if fd == -1 else self.random.choice([0, 2 * MIB, 4 * MIB, PAGE])
        one = Mapped(syscalls.mmap(size, prot, flags, fd, offset), size)
        self.mapped.append(one)
        self.tell("new", one, size, fd >= 0, prot, offset)

    def store(self) -> None:
        one = self.random.choice(self.mapped)
        at = one.addr + self.random.randrange(one.length)
        self.marks = self.marks % 250 + 1
        self.tell("store", one, at - one.addr, self.poke(at, self.marks))

    def load(self) -> None:
        one = self.random.choice(self.mapped)
        for _ in range(4):
            at = one.addr + self.random.randrange(one.length)
            self.tell("load", one, at - one.addr, self.peek(at))

    def unmap(self) -> None:
        one = self.random.choice(self.mapped)
        start, length = self.window(one)
        if not length:
            return
        self.tell("unmap", one, start - one.addr, length, self.attempt(syscalls.munmap, start, length))
        self.mapped.remove(one)
        end = one.addr + one.length
        if start > one.addr:
            self.mapped.append(Mapped(one.addr, start - one.addr))
        if start + length < end:
            self.mapped.append(Mapped(start + length, end - start - length))

    def protect(self) -> None:
        one = self.random.choice(self.mapped)
        start, length = self.window(one)
        prot = self.random.choice([NONE, R, RW])
        result = self.attempt(syscalls.mprotect, start, length, prot)
        self.tell("protect", one, start - one.addr, length, prot, result)

    def advise(self) -> None:
        one = self.random.choice(self.mapped)
        start, length = self.window(one)
        advice = self.random.choice(ADVICE)
        result = self.attempt(syscalls.madvise, start, length, advice)
        self.tell("advise", one, start - one.addr, length, advice, result)

    def lock(self) -> None:
        one = self.random.choice(self.mapped)
        start, length = self.window(one)
        for name in ("mlock", "munlock"):
            result = self.attempt(getattr(syscalls, name), start, min(length, MIB))
            self.tell(name, one, start - one.addr, length, result)

    def remap(self) -> None:
        one = self.random.choice(self.mapped)
        if self.random.randrange(3):
            start, length = one.addr, one.length
        else:
            start, length = self.window(one)
        if (start, length) != (one.addr, one.length) or not length:
            return
        new = self.random.choice([length, 4 * MIB, 4 * MIB + PAGE, 12 * MIB])
        place = self.random.choice([0, 0, *PLACES])
        flags = MREMAP_MAYMOVE | (MREMAP_FIXED if place else 0)
        if place and any(place - MOST < other.addr < place + MOST for other in self.mapped):
            return
        # Moved where a mapping is that ends in its place; a target within itself is an error anyway.
        try:
            one_at = syscalls.mremap(start, length, new, flags, place)
        except OSError as error:
            self.tell("remap", one, new, bool(place), errno.errorcode[error.errno or 0])
            # A part may have gone, and another mapping may come to be there.
            syscalls.munmap(one.addr, one.length)
            self.mapped.remove(one)
            return
        self.tell("remap", one, new, bool(place), "ok")
        one.addr, one.length = one_at, new

    def over(self) -> None:
        """A mapping in the place of a part of one."""
        one = self.random.choice(self.mapped)
        start, length = self.window(one)
        if not length:
            return
        kind = self.random.choice([MAP_PRIVATE | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS, MAP_SHARED])
        fd = self.files[0] if kind == MAP_SHARED else -1
        result = self.attempt(syscalls.mmap, length, RW, kind | MAP_FIXED, fd, 0, start)
        self.tell("over", one, start - one.addr, length, kind, result)

    def beside(self) -> None:
        """Right behind one, if nothing is there that the program knows of."""
        one = self.random.choice(self.mapped)
        at = one.addr + one.length
        if any(other.addr < at + PAGE and other.addr + other.length > at for other in self.mapped):
            return
        if one.addr not in PLACES:
            return  # who knows what is behind it
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
        result = self.attempt(syscalls.mmap, PAGE, RW, flags, -1, 0, at)
        self.tell("beside", one, result)
        if result == "ok":
            syscalls.munmap(at, PAGE)

    def child(self) -> None:
        """A child takes rights away and unmaps, for itself alone; the parent has all it had."""
        one = self.random.choice(self.mapped)
        start, length = self.window(one)
        if not length:
            return
        at = start + self.random.randrange(length)
        before = self.peek(at)
        close = self.random.randrange(3) == 0
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            if close:
                os.closerange(3, 300)
            results = [
                self.peek(at),
                self.attempt(syscalls.mprotect, start, length, NONE) if not close else "-",
                self.peek(at) if not close else "-",
                self.attempt(syscalls.munmap, one.addr, one.length),
                self.peek(at),
            ]
            self.tell("child", one, start - one.addr, length, close, *results)
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        self.tell("after", one, at - one.addr, self.peek(at) == before, self.peek(at))

    # Memory, by system calls, so that what is refused is no signal.

    def peek(self, at: int) -> object:
        try:
            return syscalls.vm_readv(os.getpid(), at, 1)[0]
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def poke(self, at: int, value: int) -> object:
        reader, writer = os.pipe()
        os.write(writer, bytes([value]))
        result = syscalls.libc.read(reader, ctypes.c_void_p(at), syscalls.size_t(1))
        found = errno.errorcode[ctypes.get_errno()] if result < 0 else result
        os.close(reader)
        os.close(writer)
        return found


_CALLS = [
    *("new", "store", "store", "load", "load", "unmap", "protect", "advise"),
    *("lock", "remap", "over", "beside", "child"),
]

if __name__ == "__main__":
    assert mmap.PAGESIZE == PAGE
    for number in range(int(sys.argv[2])):
        print("sequence", number)
        Program(int(sys.argv[1]) * 1000 + number).run(40)
