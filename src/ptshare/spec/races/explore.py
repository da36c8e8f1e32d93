# SPDX-License-Identifier: MIT
"""Try all orders in which the steps of several CPUs can follow one another.

What a CPU does is a generator. It yields a ``Step``: what it will do next, and what it has to wait for. The
code from there to the next ``yield`` is that step, and nobody comes in between. A generator cannot be copied,
so a state is reached by doing its schedule over from the start. Two schedules that lead to the same world,
with each generator at the same place with the same local variables, are continued once.
"""

from collections.abc import Callable, Generator, Hashable
from types import FrameType, GeneratorType
from typing import Any, NamedTuple, Protocol

__all__ = ["Bad", "Line", "Ops", "Result", "Step", "TooMany", "World", "explore"]


class Step(NamedTuple):
    """What a CPU is about to do."""

    words: str
    ready: Callable[[], bool] | None = None


# What it returns is for another one, which has called it by ``yield from``.
Ops = Generator[Step, None, Any]


class World(Protocol):
    """What the CPUs change, and what must hold of it."""

    def key(self) -> Hashable:
        """All of it that decides what can follow."""

    def interrupted(self, cpu: int) -> bool:
        """Whether a CPU is busy with what another one asked for, and its own steps wait."""

    def wrong(self) -> str | None:
        """What does not hold after a step."""

    def wrong_at_end(self) -> str | None:
        """What does not hold when all CPUs are done."""


class Line(NamedTuple):
    """A step of a schedule."""

    cpu: int
    words: str


class Bad(NamedTuple):
    """A schedule that ends in a state that must not be."""

    lines: tuple[Line, ...]
    wrong: str


class Result(NamedTuple):
    """What was tried: different states, those in which all CPUs were done, and the longest schedule."""

    states: int
    ends: int
    longest: int
    bad: Bad | None


class TooMany(Exception):
    """The bound on states was met before all orders were tried."""


def _plain(value: object) -> bool:
    """Is it a value, and no part of the world or of the machinery?"""
    if isinstance(value, tuple | frozenset):
        return all(_plain(part) for part in value)
    return value is None or isinstance(value, int | str)


def _place(program: Ops) -> Hashable:
    """Where a generator stands, and all others that it waits for; with what they know."""
    places: list[Hashable] = []
    inner: Any = program
    while isinstance(inner, GeneratorType):
        frame: FrameType | None = inner.gi_frame
        if frame is None:
            break
        # Sorted: in which order Python lists them depends on how often it was asked.
        known = tuple(sorted((name, value) for name, value in frame.f_locals.items() if _plain(value)))
        places.append((frame.f_code.co_name, frame.f_lasti, known))
        inner = inner.gi_yieldfrom
    return tuple(places)


class _Run:
    """One schedule, as it is being done."""

    def __init__(self, start: Callable[[], tuple[World, list[Ops]]], schedule: tuple[int, ...] = ()) -> None:
        self.world, self.programs = start()
        self.next: list[Step | None] = [next(program, None) for program in self.programs]
        for cpu in schedule:
            self.do(cpu)

    def do(self, cpu: int) -> Line:
        step = self.next[cpu]
        assert step is not None
        self.next[cpu] = next(self.programs[cpu], None)
        return Line(cpu, step.words)

    def able(self) -> list[int]:
        return [cpu for cpu, step in enumerate(self.next) if step and self._ready(cpu, step)]

    def _ready(self, cpu: int, step: Step) -> bool:
        return not self.world.interrupted(cpu) and (step.ready is None or step.ready())

    def done(self) -> bool:
        return not any(self.next)

    def key(self) -> Hashable:
        return self.world.key(), tuple(_place(program) for program in self.programs)

    def wrong(self) -> str | None:
        wrong = self.world.wrong()
        if wrong is None and self.done():
            return self.world.wrong_at_end()
        if wrong is None and not self.able():
            waiting = [f"CPU {cpu} ({step.words})" for cpu, step in enumerate(self.next) if step]
            return f"nobody can go on: {', '.join(waiting)}"
        return wrong


def _trace(start: Callable[[], tuple[World, list[Ops]]], schedule: tuple[int, ...], wrong: str) -> Bad:
    run = _Run(start)
    return Bad(tuple(run.do(cpu) for cpu in schedule), wrong)


def explore(start: Callable[[], tuple[World, list[Ops]]], limit: int = 200_000) -> Result:
    """Try all orders, short ones first: a bad schedule that is found is one of the shortest.

    :param start: makes the world as it is at first, and what each CPU is going to do in it
    :param limit: how many states may be met
    :raises TooMany: there are more
    """
    first = _Run(start)
    seen: set[Hashable] = {first.key()}
    # Each state with the run that led to it; the last of its followers goes on with that one.
    frontier: list[tuple[tuple[int, ...], _Run]] = [((), first)]
    ends = longest = 0
    while frontier:
        following: list[tuple[tuple[int, ...], _Run]] = []
        for schedule, before in frontier:
            able = before.able()
            for cpu in able:
                run = before if cpu == able[-1] else _Run(start, schedule)
                run.do(cpu)
                key = run.key()
                if key in seen:
                    continue
                seen.add(key)
                longer = (*schedule, cpu)
                longest = len(longer)
                wrong = run.wrong()
                if wrong is not None:
                    return Result(len(seen), ends, longest, _trace(start, longer, wrong))
                ends += run.done()
                following.append((longer, run))
        if len(seen) > limit:
            raise TooMany(f"more than {limit} states; give fewer CPUs less to do, or a larger limit")
        frontier = following
    return Result(len(seen), ends, longest, None)
