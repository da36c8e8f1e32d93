# SPDX-License-Identifier: MIT
"""Processes that make the calls of :mod:`calls` when they are told to."""

import os
from collections.abc import Callable
from typing import Any

import calls

from ptshare import counters
from ptshare.demo.crew import Crew


class Agent:
    """What one process can be asked: a call by its name, its error, its counters."""

    def do(self, name: str, *arguments: Any) -> Any:
        return self._call(name)(*arguments)

    def error(self, name: str, *arguments: Any) -> str:
        return calls.error_of(self._call(name), *arguments)

    def faults(self, addr: int, length: int, step: int = calls.PAGE) -> int:
        return calls.faults(addr, length, step)

    def own_pages(self) -> int:
        """Page-table pages of this process alone."""
        return counters.process_tables().own_kib * 1024 // calls.PAGE

    def shared_kib(self) -> int | None:
        return counters.process_tables().shared_kib

    def regions(self, start: int, end: int) -> list[list[Any]]:
        return [[r.start, r.end, r.access, r.offset, r.name] for r in calls.regions(start, end)]

    def pid(self) -> int:
        return os.getpid()

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags)

    def fork_and(self, name: str, *arguments: Any) -> int:
        """A child makes the call and ends; its exit code, negative for a signal."""
        pid = os.fork()
        if pid == 0:
            try:
                self._call(name)(*arguments)
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def run(self, *command: str) -> None:
        """execve(2): this process is another program from now on, and answers no more."""
        os.execvp(command[0], command)

    @staticmethod
    def _call(name: str) -> Callable[..., Any]:
        call = getattr(calls, name)
        assert callable(call)
        return call  # type: ignore[no-any-return]


class Agents(Crew):
    """``count`` processes forked from this one, with its descriptors and mappings."""

    def __init__(self, count: int) -> None:
        super().__init__(count, Agent)

    def do(self, member: int, name: str, *arguments: Any) -> Any:
        return self.call("do", name, *arguments, members=[member])[0]

    def all_do(self, name: str, *arguments: Any) -> list[Any]:
        return self.call("do", name, *arguments)

    def error(self, member: int, name: str, *arguments: Any) -> str:
        return str(self.call("error", name, *arguments, members=[member])[0])

    def faults(self, member: int, addr: int, length: int, step: int = calls.PAGE) -> int:
        """Faults that a process takes until it has every page, or one each ``step`` bytes."""
        return int(self.call("faults", addr, length, step, members=[member])[0])

    def pid(self, member: int) -> int:
        return int(self.call("pid", members=[member])[0])

    def own_pages(self, member: int) -> int:
        return int(self.call("own_pages", members=[member])[0])
