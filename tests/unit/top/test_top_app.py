# SPDX-License-Identifier: MIT
"""The application, driven by textual's pilot: keys, mouse, sizes; hosts that are slow or cannot be read."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from textual.pilot import Pilot
from top_samples import audit, many, sample

from ptshare.audit.collect import Scope
from ptshare.top.app import Top
from ptshare.top.sample import Sample

SIZE = (80, 24)
DEADLINE = 60.0


def lines(app: Top) -> list[str]:
    """What textual would write."""
    return ["".join(segment.text for segment in app.view.render_line(y)) for y in range(app.size.height)]


async def until(pilot: Pilot[int], true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, "\n".join(lines(pilot.app))  # type: ignore[arg-type]
        await pilot.pause(0.01)


def drive(
    app: Top, script: Callable[[Pilot[int]], Awaitable[None]], size: tuple[int, int] = SIZE
) -> int | None:
    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: bool(app.state.frame or app.state.problem))
            await script(pilot)

    asyncio.run(run())
    return app.return_value


def made_up(delay: float = 3600.0) -> Top:
    return Top(delay=delay, read=lambda scope: many())


def test_this_host() -> None:
    app = Top(delay=0.5)

    async def script(pilot: Pilot[int]) -> None:
        await until(pilot, lambda: app.state.frame is not None and app.state.frame.former is not None)
        found = lines(app)
        assert found[1].startswith("PageTables ")
        assert "growth -  " not in found[1]
        assert " minor, " in found[2]
        assert found[5].split()[0] == "TABLES"
        await pilot.press("tab", "end", "enter")
        assert lines(app)[5].startswith("process ")
        await pilot.press("q", "q")

    assert drive(app, script) == 0


def test_keys() -> None:
    app = made_up()

    async def script(pilot: Pilot[int]) -> None:
        assert r"/srv/[bold]da…old]\n\x1b[2J" in lines(app)[6]
        await pilot.press("tab")
        assert lines(app)[5].startswith("    PID USER")
        await pilot.press("shift+tab", "slash", *"table.2", "enter", "space")
        assert lines(app)[5].startswith("name          /dev/shm/table.29")
        await pilot.press("escape", "backslash", "left_square_bracket", *"bold", "enter")
        assert lines(app)[4].startswith(" Objects 1 of 40 ")
        await pilot.press("f4", "escape", "I")
        assert "smallest first" in lines(app)[4]
        await pilot.press("greater_than_sign", "down", "enter")
        assert "by GROWTH, largest first" in lines(app)[4]
        await pilot.press("question_mark")
        assert lines(app)[4].startswith(" Keys and columns")
        await pilot.press("f10", "pagedown", "down", "home", "f10")

    assert drive(app, script) == 0


@pytest.mark.parametrize("key", ["q", "f10", "ctrl+c"])
def test_quitting(key: str) -> None:
    async def script(pilot: Pilot[int]) -> None:
        await pilot.press(key)

    assert drive(made_up(), script) == 0


def test_mouse() -> None:
    app = made_up()

    async def script(pilot: Pilot[int]) -> None:
        await pilot.click(offset=(25, 5))
        assert "by MAPPERS, largest first" in lines(app)[4]
        await pilot.click(offset=(25, 5))
        assert "by MAPPERS, smallest first" in lines(app)[4]
        await pilot.click(offset=(25, 8))
        assert app.state.table.index == 2
        await pilot.click(offset=(1, 23))
        assert lines(app)[4].startswith(" Keys and columns")

    drive(app, script)


def test_other_sizes() -> None:
    app = made_up()

    async def script(pilot: Pilot[int]) -> None:
        for width, height in ((160, 50), (40, 10), (5, 2), (80, 24)):
            await pilot.resize_terminal(width, height)
            await until(pilot, lambda width=width, height=height: app.view.size == (width, height))  # type: ignore[misc]
            found = lines(app)
            assert len(found) == height
            assert {len(line) for line in found} == {width}
            assert ("KIND" in found[5 % height]) == (width == 160)
        assert "F10Quit" in lines(app)[-1]

    drive(app, script)


def test_keys_do_not_wait_for_the_host() -> None:
    gate = threading.Event()
    calls = []

    def read(scope: Scope | None) -> Sample:
        calls.append(threading.current_thread())
        if len(calls) > 1:
            assert gate.wait(DEADLINE)
        return many()

    app = Top(delay=0.5, read=read)

    async def script(pilot: Pilot[int]) -> None:
        await until(pilot, lambda: len(calls) == 2)
        await pilot.press("down", "down", "r", "r")
        assert app.state.table.index == 2
        # The next one begins after this one has ended.
        await pilot.pause(0.7)
        assert len(calls) == 2
        gate.set()
        await until(pilot, lambda: len(calls) == 3)
        assert threading.main_thread() not in calls

    drive(app, script)


def test_pause() -> None:
    calls = []

    def read(scope: Scope | None) -> Sample:
        calls.append(scope)
        return many()

    app = Top(Scope(pids=(1,)), 0.5, read)

    async def script(pilot: Pilot[int]) -> None:
        await pilot.press("p")
        await until(pilot, lambda: not app._reading)
        count = len(calls)
        await pilot.pause(0.8)
        assert len(calls) == count
        await pilot.press("r")
        await until(pilot, lambda: len(calls) == count + 1 and not app._reading)
        assert app.state.paused
        await pilot.press("p")
        await until(pilot, lambda: len(calls) >= count + 3)

    drive(app, script)
    assert set(map(str, calls)) == {"pid 1"}


def test_what_comes_in_a_pause_is_not_shown() -> None:
    gate = threading.Event()
    calls = []

    def read(scope: Scope | None) -> Sample:
        calls.append(scope)
        if len(calls) == 2:
            assert gate.wait(DEADLINE)
        return many()

    app = Top(delay=0.5, read=read)

    async def script(pilot: Pilot[int]) -> None:
        first = app.state.frame
        await until(pilot, lambda: len(calls) == 2)
        await pilot.press("p")
        gate.set()
        await until(pilot, lambda: not app._reading)
        assert app.state.frame is first
        await pilot.press("p")
        await until(pilot, lambda: app.state.frame is not first)

    drive(app, script)


def test_a_host_that_cannot_be_read_now_and_then() -> None:
    def answers() -> Iterator[Sample | Exception]:
        yield PermissionError(13, "Permission denied")
        yield ValueError("odd \x1b[2J")
        while True:
            yield sample(audit())

    following = answers()

    def read(scope: Scope | None) -> Sample:
        answer = next(following)
        if isinstance(answer, Exception):
            raise answer
        return answer

    app = Top(delay=0.5, read=read)

    async def script(pilot: Pilot[int]) -> None:
        assert lines(app)[3].rstrip() == "cannot read /proc: Permission denied"
        await until(pilot, lambda: "odd" in app.state.problem)
        assert "\x1b" not in lines(app)[3]
        await until(pilot, lambda: app.state.frame is not None)
        assert lines(app)[3].startswith("10 MiB of page tables, 0 B duplicate")
        await pilot.press("q")

    assert drive(app, script) == 0
