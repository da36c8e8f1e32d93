# SPDX-License-Identifier: MIT
"""``ptshare top`` as it is started, in a terminal of its own."""

import builtins
import mmap
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptshare import cli
from terminal import DEADLINE, TOP, Terminal, shown


@pytest.fixture
def start() -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*arguments: str, **size: int) -> Terminal:
        started.append(Terminal([*TOP, *arguments], **size))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


def test_it_starts_and_quits(start: Callable[..., Terminal]) -> None:
    terminal = start("--delay", "0.5")
    terminal.until(shown(terminal))
    assert terminal.alternate
    assert not terminal.cursor_shown
    assert not terminal.restored()
    first, _, second, verdict, tabs, heading, *_ = terminal.lines
    assert first.startswith(f"{os.uname().nodename}, Linux {os.uname().release}"[:60])
    assert second.startswith("duplicate ")
    assert " of page tables, " in verdict
    assert tabs.startswith(" Objects ")
    assert heading.startswith("TABLES GROWTH ")
    # The second refresh knows the growth.
    terminal.until(lambda: bool(re.search(r"growth [+-]?\d.* s$", terminal.lines[1])))
    terminal.type("\t")
    terminal.until(lambda: terminal.lines[5].startswith("    PID USER"))
    terminal.type("\x1bOP")  # F1
    terminal.until(lambda: terminal.lines[4].startswith(" Keys and columns"))
    terminal.type("q")
    terminal.until(lambda: terminal.lines[4].startswith(" Objects"))
    terminal.type("q")
    assert terminal.ends() == 0
    assert terminal.restored()
    assert "Traceback" not in terminal.all


def test_a_process_that_is_not_there(start: Callable[..., Terminal]) -> None:
    terminal = start("--pid", "2147483647")
    terminal.until(lambda: "No process to be seen is in all that was asked for" in terminal.lines[3])
    terminal.type("q")
    assert terminal.ends() == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 0), (signal.SIGHUP, 129)]
)
def test_signals(start: Callable[..., Terminal], number: signal.Signals, status: int) -> None:
    terminal = start()
    terminal.until(shown(terminal))
    terminal.process.send_signal(number)
    assert terminal.ends() == status
    assert terminal.restored()
    assert "Traceback" not in terminal.all


def test_a_terminal_that_is_closed(start: Callable[..., Terminal]) -> None:
    terminal = start("--delay", "0.5")
    terminal.until(shown(terminal))
    terminal.hang_up()
    assert terminal.process.wait(DEADLINE) == 129


def test_another_size(start: Callable[..., Terminal]) -> None:
    terminal = start()
    terminal.until(shown(terminal))
    terminal.resize(120, 30)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.until(lambda: "KIND" in terminal.lines[5] and shown(terminal)())
    terminal.type("\x03")
    assert terminal.ends() == 0


def test_growth_of_a_process(start: Callable[..., Terminal]) -> None:
    """A child maps 64 MiB, then touches all of it: 32 tables of 4 KiB."""
    name = "[red]grows"
    code = (
        "import mmap, os, sys\n"
        f"fd = os.memfd_create({name!r})\n"
        "os.ftruncate(fd, 64 << 20)\n"
        "mapping = mmap.mmap(fd, 64 << 20)\n"
        "for end in (4 << 20, 64 << 20):\n"
        "    mapping[:end] = bytes(end)\n"
        "    print(flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        terminal = start("--delay", "0.5", "--pid", str(child.pid))

        def row() -> list[str]:
            table = terminal.lines[6:]  # the verdict may name it, too
            return next((line.split() for line in table if f"/memfd:{name} " in line), [])

        # One more where the mapping does not begin at a multiple of 2 MiB.
        before, after = {size(2), size(3)}, {size(32), size(33)}
        terminal.until(lambda: row()[1:2] == ["0"] and row()[0] in before)
        child.stdin.write(b"\n")
        child.stdin.flush()
        # On a busy machine it may take several refreshes.
        terminal.until(lambda: row()[1:2] not in ([], ["0"]))
        assert row()[1].startswith("+")
        terminal.until(lambda: row()[1:2] == ["0"] and row()[0] in after)
        assert child.stdout.readline() == b"\n"
        terminal.type(" ")
        terminal.until(lambda: terminal.lines[5] == f"name          /memfd:{name} (deleted)")
        terminal.until(lambda: any(line.startswith("        1 ") for line in terminal.lines))
        # It ends: the page says so, and there is no traceback.
        child.stdin.write(b"\n")
        child.stdin.close()
        child.wait()
        terminal.until(lambda: terminal.lines[5].startswith("gone; as it was at "))
        terminal.type("q")
        terminal.until(lambda: "no process that was asked for has memory of its own" in terminal.lines)
        terminal.type("q")
        assert terminal.ends() == 0
        assert "Traceback" not in terminal.all


def size(tables: int) -> str:
    """Of so many page tables, as it is shown."""
    return f"{tables * mmap.PAGESIZE >> 10}K"


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_no_terminal(closed: str) -> None:
    master, slave = pty.openpty()
    try:
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        streams[closed] = subprocess.PIPE if closed != "stdin" else subprocess.DEVNULL
        with subprocess.Popen(TOP, **streams) as process:
            try:
                assert process.wait(DEADLINE) == 2
            finally:
                process.kill()
            said = process.stderr.read() if process.stderr else os.read(master, 1 << 16)
    finally:
        os.close(master)
        os.close(slave)
    name = {"stdin": "input", "stdout": "output", "stderr": "error"}[closed]
    assert said.decode().strip() == (
        f"ptshare top: standard {name} is not a terminal; for files and pipes: ptshare audit --watch 2"
    )


def terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all were one."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(getattr(sys, name), "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("missing", ["textual", "rich"])
def test_without_textual(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    terminals(monkeypatch)
    ordinary = builtins.__import__

    def without(name: str, *more: Any, **other: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return ordinary(name, *more, **other)

    for module in list(sys.modules):
        if module.startswith("ptshare.top"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    assert cli.main(["top"]) == 2
    assert "is not installed; in a checkout of ptshare: pip install '.[top]'" in capsys.readouterr().err


def test_a_terminal_of_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminals(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    assert cli.main(["top"]) == 2
    assert "ptshare audit --watch" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--delay", "0.4"],
        ["--delay", "nan"],
        ["--delay", "inf"],
        ["--delay", "soon"],
        ["--pid", "0"],
        ["--user", "no such user"],
    ],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["top", *arguments])
    assert ended.value.code == 2
    assert "ptshare top: error: " in capsys.readouterr().err


def test_the_page_names_all_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["top", "--help"])
    options = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    page = (Path(__file__).parents[3] / "docs/top.md").read_text()
    assert {option for option in options if option not in page} == set()
