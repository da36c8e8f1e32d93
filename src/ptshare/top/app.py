# SPDX-License-Identifier: MIT
"""The terminal: keys, mouse and signals in, lines out. The host is read in a thread meanwhile."""

import asyncio
import signal
import threading
from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.message import Message
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from ptshare.audit.collect import Scope
from ptshare.audit.proc import FormatError
from ptshare.audit.words import plain
from ptshare.top import draw
from ptshare.top.rows import Column, Frame, frame
from ptshare.top.sample import Sample, take
from ptshare.top.state import Order, State

__all__ = ["Top", "View"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Seconds after which a terminal that is gone is no longer waited for.
_PATIENCE = 3.0


class View(Widget, can_focus=True):
    """All of the screen."""

    DEFAULT_CSS = "View { width: 100%; height: 100%; }"

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self._lines: list[draw.Line] | None = None

    def draw(self) -> None:
        """Draw what has changed."""
        self._lines = None
        self.refresh()

    def on_resize(self) -> None:
        """Lay it out for another size."""
        self.draw()

    def render_line(self, y: int) -> Strip:
        """A line, for textual."""
        if self._lines is None:
            self._lines = draw.screen(self._state, self.size.width, self.size.height)
        line = self._lines[y] if y < len(self._lines) else []
        segments = [Segment(text, Style.parse(style)) for text, style in line]
        return Strip(segments).adjust_cell_length(self.size.width)


class Top(App[int]):
    """``ptshare top``.

    :param scope: which processes are asked for
    :param delay: seconds from the end of an audit to the beginning of the next
    :param read: reads the host
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = "Screen { overflow: hidden; }"

    class Read(Message):
        """The host has been read; or not, and why."""

        def __init__(self, found: Frame | str) -> None:
            super().__init__()
            self.found = found

    def __init__(
        self, scope: Scope | None = None, delay: float = 2.0, read: Callable[[Scope | None], Sample] = take
    ) -> None:
        super().__init__(ansi_color=True)
        self.state = State(delay)
        self.view = View(self.state)
        self._scope = scope
        self._read = read
        self._reading = False
        #: What is being read is to be shown in a pause, too.
        self._asked = False
        self._next: Timer | None = None

    def compose(self) -> ComposeResult:
        """All there is."""
        yield self.view

    def on_load(self) -> None:
        """Before the terminal is changed: a signal must find somebody who changes it back."""
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in _SIGNALS:
                loop.add_signal_handler(number, self._signalled, number)

    def on_mount(self) -> None:
        """Begin."""
        self.view.focus()
        self._read_now()

    def _signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            # With the terminal gone, what is written to it is not taken, and would be waited for.
            timer = threading.Timer(_PATIENCE, _give_up, (128 + number,))
            timer.daemon = True
            timer.start()
        self.exit(0 if number == signal.SIGINT else 128 + number)

    # Reading

    def _read_now(self) -> None:
        if self._reading:
            return
        if self._next is not None:
            self._next.stop()
        self._reading = True
        former = self.state.frame.sample if self.state.frame else None
        # Nobody waits for it at the end: a thread of a pool would be waited for.
        threading.Thread(target=self._read_in_thread, args=(former,), name="audit", daemon=True).start()

    def _read_in_thread(self, former: Sample | None) -> None:
        found: Frame | str
        try:
            found = frame(self._read(self._scope), former)
        except (OSError, FormatError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            found = f"cannot read /proc: {plain(reason)}"
        except Exception as error:  # to be seen, and to be tried again
            found = f"the audit failed: {plain(repr(error))}"
        self.post_message(self.Read(found))

    def on_top_read(self, message: Read) -> None:
        """Show it, and wait."""
        self._reading = False
        if self.state.paused and not self._asked and self.state.frame is not None:
            return
        self._asked = False
        if isinstance(message.found, str):
            self.state.problem = message.found
        else:
            self.state.show(message.found)
        self._next = self.set_timer(self.state.delay, self._due)
        self.view.draw()

    def _due(self) -> None:
        if not self.state.paused:
            self._read_now()

    # Keys and mouse

    async def on_key(self, event: events.Key) -> None:
        """A key."""
        event.stop()
        event.prevent_default()
        self.press(event.character if event.character and event.is_printable else event.key)

    def press(self, name: str) -> None:
        """Do what a key is for."""
        was_paused = self.state.paused
        order: Order | None = self.state.key(name)
        if order == "quit":
            self.exit(0)
        elif order == "suspend":
            self.action_suspend_process()
        elif order == "refresh" or (was_paused and not self.state.paused):
            self._asked = True
            self._read_now()
        elif order == "redraw":
            self.refresh(repaint=True, layout=True)
        self.view.draw()

    def on_paste(self, event: events.Paste) -> None:
        """Text from elsewhere, for a search."""
        self.state.typed_text(event.text)
        self.view.draw()

    def on_click(self, event: events.Click) -> None:
        """A heading, a line, or a key at the bottom."""
        width, height = self.view.size
        if event.screen_y == height - 1:
            name = draw.key_at(self.state, event.screen_x)
            if name is not None:
                self.press(name)
            return
        found = draw.hit(self.state, width, height, event.screen_x, event.screen_y)
        if isinstance(found, Column):
            self.state.sort_by(found)
        elif found is not None:
            self.state.table.go(found)
        self.view.draw()

    def on_mouse_scroll_down(self) -> None:
        """The wheel."""
        self.press("down")

    def on_mouse_scroll_up(self) -> None:
        """The wheel."""
        self.press("up")


def _give_up(status: int) -> None:
    import os

    os._exit(status)
