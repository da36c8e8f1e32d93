# SPDX-License-Identifier: MIT
"""The explorer: all orders, each state once, shortest schedule first."""

from collections.abc import Hashable

import pytest

from ptshare.spec.races.explore import Line, Ops, Step, TooMany, explore


class Counter:
    """A number that each CPU wants to raise by one, and locks that CPUs hold."""

    def __init__(self, wanted: int) -> None:
        self.value = 0
        self.wanted = wanted
        self.locks: set[str] = set()

    def key(self) -> Hashable:
        return self.value, frozenset(self.locks)

    def interrupted(self, cpu: int) -> bool:
        return False

    def wrong(self) -> str | None:
        return None

    def wrong_at_end(self) -> str | None:
        return None if self.value == self.wanted else f"{self.value}, not {self.wanted}"


def adds(world: Counter) -> Ops:
    yield Step("adds one")
    world.value += 1


def reads_then_writes(world: Counter) -> Ops:
    yield Step("reads")
    value = world.value
    yield Step("writes")
    world.value = value + 1


def takes(world: Counter, *locks: str) -> Ops:
    for lock in locks:
        yield Step(f"takes {lock}", lambda lock=lock: lock not in world.locks)  # type: ignore[misc]
        world.locks.add(lock)
    yield Step("lets go")
    world.value += 1
    world.locks -= set(locks)


def test_orders_that_meet_are_continued_once() -> None:
    def start() -> tuple[Counter, list[Ops]]:
        world = Counter(3)
        return world, [adds(world) for _ in range(3)]

    result = explore(start)
    # Each CPU has done its step or not.
    assert (result.states, result.ends, result.longest, result.bad) == (8, 1, 3, None)


def test_a_lost_update_and_the_shortest_schedule() -> None:
    def start() -> tuple[Counter, list[Ops]]:
        world = Counter(2)
        return world, [reads_then_writes(world), reads_then_writes(world)]

    bad = explore(start).bad
    assert bad is not None
    assert bad.wrong == "1, not 2"
    assert bad.lines == (Line(0, "reads"), Line(1, "reads"), Line(0, "writes"), Line(1, "writes"))


def test_a_deadlock() -> None:
    def start() -> tuple[Counter, list[Ops]]:
        world = Counter(2)
        return world, [takes(world, "a", "b"), takes(world, "b", "a")]

    bad = explore(start).bad
    assert bad is not None
    assert bad.wrong == "nobody can go on: CPU 0 (takes b), CPU 1 (takes a)"


def test_locks_in_one_order() -> None:
    def start() -> tuple[Counter, list[Ops]]:
        world = Counter(2)
        return world, [takes(world, "a", "b"), takes(world, "a", "b")]

    assert explore(start).bad is None


def test_too_many() -> None:
    def start() -> tuple[Counter, list[Ops]]:
        world = Counter(3)
        return world, [adds(world) for _ in range(3)]

    with pytest.raises(TooMany, match="more than 3 states"):
        explore(start, limit=3)
