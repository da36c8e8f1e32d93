# SPDX-License-Identifier: MIT
"""``ptshare top`` as it is started, in a terminal of its own."""

import builtins
import codecs
import contextlib
import fcntl
import mmap
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptshare import cli

COMMAND = [sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())", "top"]
DEADLINE = 60.0

#: An order of the program's: ESC [ numbers letter; or ESC ] text BEL.
_SEQUENCE = re.compile(r"\x1b(?:\[([0-9;?<>=]*)(\$?[@-~])|\][^\x07]*\x07)")


class Terminal:
    """A terminal with a program in it: what is on the screen, as far as the program's orders are these."""

    def __init__(self, *arguments: str, width: int = 80, height: int = 24) -> None:
        self.width, self.height = width, height
        self.grid = [[" "] * width for _ in range(height)]
        self.alternate, self.cursor_shown, self.all = False, True, ""
        self._x = self._y = 0
        self._rest = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._master, self._slave = pty.openpty()
        self.resize(width, height)
        self.attributes = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm-256color"},
        )

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.grid = [[" "] * width for _ in range(height)]
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        """As a window that is closed."""
        for fd in (self._master, self._slave):
            with contextlib.suppress(OSError):
                os.close(fd)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def restored(self) -> bool:
        """All is as it was before."""
        same = termios.tcgetattr(self._slave) == self.attributes
        return same and not self.alternate and self.cursor_shown

    @property
    def lines(self) -> list[str]:
        return ["".join(line).rstrip() for line in self.grid]

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not true():
            assert time.monotonic() < deadline, "\n".join([*self.lines, f"status {self.process.poll()}"])
            self.read(0.05)

    def ends(self) -> int:
        """The exit status; all that it wrote has been read then."""
        self.until(lambda: self.process.poll() is not None)
        while self.read(0.05):
            pass
        return self.process.wait()

    def read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        text = self._decoder.decode(os.read(self._master, 1 << 16))
        self.all += text
        self._feed(self._rest + text)
        return True

    def _feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            character = text[at]
            if character == "\x1b":
                match = _SEQUENCE.match(text, at)
                if match is None:
                    break  # the rest of it comes later
                self._order(match[1] or "", match[2] or "")
                at = match.end()
                continue
            at += 1
            if character == "\r":
                self._x = 0
            elif character == "\n":
                # As the terminal is set, or the line below its beginning.
                self._x, self._y = 0, self._y + 1
            else:
                if self._x < self.width and self._y < self.height:
                    self.grid[self._y][self._x] = character
                self._x += 1
        self._rest = text[at:]

    def _order(self, numbers: str, order: str) -> None:
        if order == "H":
            y, x = (int(number or 1) for number in (numbers or "1;1").split(";"))
            self._x, self._y = x - 1, y - 1
        elif order in "hl" and numbers == "?1049":
            self.alternate = order == "h"
        elif order in "hl" and numbers == "?25":
            self.cursor_shown = order == "h"


@pytest.fixture
def start() -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*arguments: str, **size: int) -> Terminal:
        started.append(Terminal(*arguments, **size))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


def shown(terminal: Terminal) -> Callable[[], bool]:
    return lambda: terminal.lines[1].startswith("PageTables ") and "F10Quit" in terminal.lines[-1]


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
        with subprocess.Popen(COMMAND, **streams) as process:
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
    assert "is not installed: pip install 'ptshare[top]'" in capsys.readouterr().err


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
