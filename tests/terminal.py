# SPDX-License-Identifier: MIT
"""A terminal for programs under test, and ``ptshare top`` in one."""

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

TOP = [sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())", "top"]
DEADLINE = 60.0

#: An order of the program's: ESC [ numbers letter; or ESC ] text BEL.
_SEQUENCE = re.compile(r"\x1b(?:\[([0-9;?<>=]*)(\$?[@-~])|\][^\x07]*\x07)")


class Terminal:
    """A terminal with a program in it: what is on the screen, as far as the program's orders are these."""

    def __init__(self, command: list[str], width: int = 80, height: int = 24) -> None:
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
            command,
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


def shown(terminal: Terminal) -> Callable[[], bool]:
    """Whether ``ptshare top`` is there with all of its screen."""
    return lambda: terminal.lines[1].startswith("PageTables ") and "F10Quit" in terminal.lines[-1]
