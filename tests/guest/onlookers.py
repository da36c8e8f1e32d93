# SPDX-License-Identifier: MIT
"""Processes with guests of their own, that must not notice what is done to another."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import calls
import pagebits
import raw
from agents import Agent, Agents
from calls import GRANULE, PAGE, RW, SHARED_PT

from ptshare import counters

SIZE = 2 * GRANULE
PAGES = SIZE // PAGE

MPOL_DEFAULT = 0


def mbind(at: int, length: int, mode: int, nodes: int, flags: int = 0) -> None:
    mask = ctypes.create_string_buffer(nodes.to_bytes(8, "little"), 8)
    raw.syscall(raw.MBIND, at, length, mode, mask if nodes else None, 64 if nodes else 0, flags)


def eventually(probe: Callable[[], bool]) -> bool:
    """It is true within a minute."""
    deadline = time.monotonic() + 60
    while not (found := probe()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


class Onlooker(Agent):
    """A process with a guest of its own, that must not notice."""

    def store_faults(self, addr: int, length: int) -> int:
        """Faults of a store to every page; some are the interpreter's own."""
        before = counters.minor_faults()
        calls.store(addr, length, 9)
        return counters.minor_faults() - before

    def referenced(self, addr: int) -> str:
        return pagebits.smaps(addr)["Referenced"]

    def become(self, user: int) -> None:
        os.setresuid(user, user, user)

    def in_memory(self, addr: int, length: int) -> int:
        """How many pages mincore(2) says are."""
        return sum(byte & 1 for byte in calls.mincore(addr, length))

    def move(self, addr: int, length: int, flags: int) -> object:
        """mbind(2) to no policy."""
        return raw.outcome(mbind, addr, length, MPOL_DEFAULT, 0, flags)

    def prctl(self, what: int, value: int) -> None:
        raw.syscall(raw.PRCTL, what, value, 0, 0, 0)

    def childs_error(self, name: str, *arguments: Any) -> str:
        """What a forked child's call comes to."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, self.error(name, *arguments).encode() or b"none")
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(writer)
        with open(reader) as result:
            return result.read()

    def seal(self, addr: int, length: int) -> object:
        return raw.outcome(raw.syscall, raw.MSEAL, addr, length, 0)

    def read_until_hinted(self, ordinary: int, guest: int, length: int) -> list[int]:
        """Read both mappings in turn, until each page of the first has faulted again; the faults of each."""
        found = {ordinary: 0, guest: 0}
        for at in found:
            calls.store(at, length)
        deadline = time.monotonic() + 60
        while found[ordinary] < length // PAGE and time.monotonic() < deadline:
            for at in found:
                before = counters.minor_faults()
                calls.touch(at, length)
                found[at] += counters.minor_faults() - before
        return list(found.values())


class Onlookers(Agents):
    def __init__(self, count: int) -> None:
        super(Agents, self).__init__(count, Onlooker)

    def ask(self, member: int, method: str, *arguments: Any) -> Any:
        return self.call(method, *arguments, members=[member])[0]

    @contextmanager
    def undisturbed(self, fd: int) -> Iterator[None]:
        """The first has written all of the file by a guest of its own; what happens here is nothing to it:
        its pages stay accessed, and it stores to them without a fault.
        """
        at = self.do(0, "mmap", SIZE, RW, SHARED_PT, fd)
        self.do(0, "store", at, SIZE, 5)
        yield
        assert self.ask(0, "referenced", at) == f"{SIZE // 1024} kB"
        assert self.ask(0, "store_faults", at, SIZE) < PAGES // 10
        self.do(0, "munmap", at, SIZE)


def noted(at: int) -> set[str]:
    """VmFlags of the mapping at an address."""
    return set(pagebits.smaps(at)["VmFlags"].split())
