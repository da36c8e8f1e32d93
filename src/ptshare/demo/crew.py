# SPDX-License-Identifier: MIT
"""Forked processes that do what they are told, one call at a time, and answer."""

import contextlib
import gc
import json
import os
import select
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

from ptshare.demo import signals
from ptshare.demo.errors import ProcessFailedError

__all__ = ["Crew"]


@dataclass
class _Member:
    pid: int
    #: Write end: calls, one JSON line each.
    calls: int
    #: Read end: answers, one JSON line each.
    answers: int


class Crew:
    """``count`` processes, each with an object of its own that ``make_worker`` makes after the fork.

    A context manager: at its end no process is left, however it ended. A process also ends by itself when
    the one that made it is gone.

    :param make_worker: called in each process; its object's methods are what :meth:`call` calls
    """

    def __init__(self, count: int, make_worker: Callable[[], object]) -> None:
        self._count = count
        self._make_worker = make_worker
        self._members: dict[int, _Member] = {}

    def __enter__(self) -> Self:
        """Make the processes.

        :raises ProcessFailedError: there can be no more of them
        """
        try:
            with signals.uninterrupted():  # no child that is not in the list
                # What lives now is never freed by a child, so that no child has to copy the pages of its
                # object heads.
                gc.collect()
                gc.freeze()
                for number in range(self._count):
                    self._members[number] = self._fork()
                gc.unfreeze()
            return self
        except BaseException:
            self.kill(self.members)
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the processes end, or end them if there was an error, and wait until they are gone."""
        if exc_type is None:
            self.dismiss()
        else:
            self.kill(self.members)

    @property
    def members(self) -> list[int]:
        """Numbers of the processes that are there, from 0."""
        return list(self._members)

    def call(
        self,
        method: str,
        *arguments: object,
        members: Collection[int] | None = None,
        at_once: int | None = None,
        seconds: float = 600,
    ) -> list[Any]:
        """Call ``method`` of the worker in each of ``members``.

        :param arguments: JSON values
        :param members: default: all
        :param at_once: how many processes work at the same time, default: all
        :param seconds: how long to wait for the next answer
        :returns: the answers, JSON values, in the order of ``members``
        :raises ProcessFailedError: a process died, the method raised, or no answer came in time
        """
        waiting = list(self._members if members is None else members)
        order = list(waiting)
        waiting.reverse()
        answers: dict[int, object] = {}
        busy: dict[int, int] = {}
        poll = select.poll()
        line = json.dumps([method, *arguments]).encode() + b"\n"
        while waiting or busy:
            while waiting and len(busy) < (at_once or len(order)):
                number = waiting.pop()
                member = self._members[number]
                # A process that is gone shows as the end of its answers.
                with contextlib.suppress(BrokenPipeError):
                    os.write(member.calls, line)
                poll.register(member.answers, select.POLLIN)
                busy[member.answers] = number
            ready = poll.poll(seconds * 1000)
            if not ready:
                raise ProcessFailedError(f"no process answered {method!r} within {seconds:.0f} s")
            for answer_fd, _ in ready:
                number = busy.pop(answer_fd)
                poll.unregister(answer_fd)
                answers[number] = self._answer(number, method)
        return [answers[number] for number in order]

    def kill(self, members: Collection[int]) -> None:
        """End processes with SIGKILL and wait until they are gone."""
        for number in members:
            os.kill(self._members[number].pid, signal.SIGKILL)
        for number in members:
            self._forget(number)

    def dismiss(self) -> None:
        """Let all processes end and wait until they are gone."""
        for member in self._members.values():
            os.close(member.calls)
            member.calls = -1
        for number in list(self._members):
            self._forget(number)

    def _forget(self, number: int) -> int:
        """Wait for the end of a process.

        :returns: its wait status
        """
        member = self._members.pop(number)
        _, status = os.waitpid(member.pid, 0)
        if member.calls >= 0:
            os.close(member.calls)
        os.close(member.answers)
        return status

    def _answer(self, number: int, method: str) -> object:
        # An answer is shorter than what a pipe takes in one piece (PIPE_BUF), so that one read gets it all.
        member = self._members[number]
        line = os.read(member.answers, select.PIPE_BUF)
        if not line:
            end = os.waitstatus_to_exitcode(self._forget(number))
            how = signal.Signals(-end).name if end < 0 else f"exit status {end}"
            raise ProcessFailedError(f"process {member.pid} died in {method!r}: {how}")
        answer = json.loads(line)
        if "error" in answer:
            raise ProcessFailedError(f"process {member.pid}, {method!r}: {answer['error']}")
        return answer["value"]

    def _fork(self) -> _Member:
        calls_read, calls_write = os.pipe()
        answers_read, answers_write = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            for end in (calls_read, calls_write, answers_read, answers_write):
                os.close(end)
            raise ProcessFailedError(f"no further process can be made: {error.strerror}") from None
        if pid == 0:
            # A pipe ends for its reader when nobody holds its other end, so a child must hold none of them.
            for end in self._parent_ends():
                os.close(end)
            os.close(calls_write)
            os.close(answers_read)
            _work(self._make_worker, calls_read, answers_write)
        os.close(calls_read)
        os.close(answers_write)
        return _Member(pid, calls_write, answers_read)

    def _parent_ends(self) -> Iterator[int]:
        for member in self._members.values():
            yield member.calls
            yield member.answers


def _work(make_worker: Callable[[], object], calls: int, answers: int) -> NoReturn:
    """The life of a child process."""
    status = 1
    try:
        signals.reset()
        gc.disable()
        worker = make_worker()
        with os.fdopen(calls, "rb") as lines:
            for line in lines:
                method, *arguments = json.loads(line)
                try:
                    answer = {"value": getattr(worker, method)(*arguments)}
                except Exception as error:
                    answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
                os.write(answers, json.dumps(answer).encode())
        status = 0
    finally:
        # Not the parent's exit handlers, and none of its buffered output a second time.
        os._exit(status)
