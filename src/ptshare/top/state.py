# SPDX-License-Identifier: MIT
"""What has been chosen by keys: table, line, order, filter, and what stands in the way of the table."""

from collections.abc import Callable, Sequence
from typing import Literal

from ptshare.top import details
from ptshare.top.rows import OBJECTS, PROCESSES, Column, Frame, Key, Row, arrange, matches

__all__ = ["Order", "State", "Table"]

#: What the state cannot do by itself.
Order = Literal["quit", "suspend", "refresh", "redraw"]
#: ``table``; or with a line at the bottom into which is typed; or with columns, or text, in its place.
Mode = Literal["table", "search", "filter", "columns", "page"]

_STEPS = {"up": -1, "down": 1, "ctrl+p": -1, "ctrl+n": 1}


class Table:
    """One of the two tables.

    :param title: its name
    :param columns: all of them
    """

    def __init__(self, title: str, columns: Sequence[Column]) -> None:
        self.title = title
        self.columns = columns
        self.sort = next(column for column in columns if column.name == "TABLES")
        self.inverted = False
        self.wanted = ""
        self.rows: Sequence[Row] = ()
        self.shown: Sequence[Row] = ()
        #: Of the marked line, and of the first one on the screen.
        self.index = self.top = 0
        #: Lines that there is room for.
        self.height = 1
        #: The mark stays with this row; ``None``: at the top.
        self._key: Key | None = None

    @property
    def down(self) -> bool:
        """The largest is first."""
        return self.sort.down != self.inverted

    @property
    def marked(self) -> Row | None:
        """The row that the mark is on."""
        return self.shown[self.index] if self.shown else None

    def fill(self, rows: Sequence[Row]) -> None:
        """Show other rows; the mark stays with what it was on, if that is still there."""
        self.rows = rows
        self.order()

    def order(self) -> None:
        """Order and filter anew."""
        self.shown = arrange(self.rows, self.sort, self.down, self.wanted)
        at = self.index
        if self._key is None:
            at = 0
        else:
            at = next((at for at, row in enumerate(self.shown) if row.key == self._key), at)
        self.index = max(0, min(at, len(self.shown) - 1))

    def go(self, index: int) -> None:
        """Move the mark, and have it stay with what it is on then; but at the top it stays at the top."""
        self.index = max(0, min(index, len(self.shown) - 1))
        self._key = self.shown[self.index].key if self.index else None

    def find(self, text: str, start: int, step: int = 1) -> bool:
        """Move the mark to the first row that matches, from ``start`` on and round the end."""
        count = len(self.shown)
        for distance in range(count):
            at = (start + distance * step) % count
            if matches(self.shown[at], text):
                self.go(at)
                return True
        return False

    def scrolled(self, height: int) -> Sequence[Row]:
        """The rows that are on the screen.

        :param height: how many there is room for
        """
        self.height = max(1, height)
        self.top = max(min(self.top, self.index, len(self.shown) - self.height), 0)
        self.top = max(self.top, self.index - self.height + 1)
        return self.shown[self.top : self.top + max(0, height)]


class State:
    """All of it. Keys are named as textual names them, printable ones by themselves.

    :param delay: seconds from the end of an audit to the beginning of the next
    """

    def __init__(self, delay: float = 2.0) -> None:
        self.delay = delay
        self.frame: Frame | None = None
        #: Why the last refresh failed; empty: it did not.
        self.problem = ""
        self.paused = False
        self.tables = (Table("Objects", OBJECTS), Table("Processes", PROCESSES))
        self.table = self.tables[0]
        self.mode: Mode = "table"
        self.typed = ""
        self.found = True
        #: The line that is marked among the columns.
        self.column = 0
        self.page_title = ""
        self.page: Callable[[], list[str]] = list
        #: First line of the page that is on the screen, how many there are, and how many there is room for.
        self.page_top = self.page_lines = 0
        self.page_height = 1
        self._origin = 0
        self._searched = ""

    def show(self, frame: Frame) -> None:
        """Show what has been read."""
        self.frame, self.problem = frame, ""
        self.tables[0].fill(frame.objects)
        self.tables[1].fill(frame.processes)

    def key(self, name: str) -> Order | None:
        """Do what a key is for.

        :returns: what is left to do
        """
        if name == "ctrl+c":
            return "quit"
        if name == "ctrl+z":
            return "suspend"
        if name == "ctrl+l":
            return "redraw"
        handler: Callable[[str], Order | None] = getattr(self, f"_key_{self.mode}")
        return handler(name)

    def typed_text(self, text: str) -> None:
        """Several characters at once, as when pasted."""
        if self.mode in ("search", "filter"):
            self._type(self.typed + "".join(filter(str.isprintable, text)))

    def _key_table(self, name: str) -> Order | None:
        table = self.table
        if name in ("q", "f10"):
            return "quit"
        if name == "r":
            return "refresh"
        if self._move(name):
            return None
        if name in ("tab", "shift+tab"):
            self.choose(1 - self.tables.index(table))
        elif name in ("f1", "?", "h"):
            self._open("Keys and columns", details.help_lines)
        elif name in ("f3", "/"):
            self.mode, self.typed, self.found, self._origin = "search", "", True, table.index
        elif name in ("n", "N"):
            step = 1 if name == "n" else -1
            if self._searched:
                table.find(self._searched, table.index + step, step)
        elif name in ("f4", "\\"):
            self.mode, self.typed = "filter", table.wanted
        elif name in ("f6", ">", "<", ".", ","):
            self.mode, self.column = "columns", table.columns.index(table.sort)
        elif name == "I":
            table.inverted = not table.inverted
            table.order()
        elif name in (" ", "enter"):
            self._open_details()
        elif name == "v":
            self._open("Verdict", lambda: details.verdict_lines(self.frame, self.problem))
        elif name in ("p", "Z"):
            self.paused = not self.paused
        return None

    def _move(self, name: str) -> bool:
        table = self.table
        if name in _STEPS:
            table.go(table.index + _STEPS[name])
        elif name in ("pageup", "pagedown"):
            step = table.height if name == "pagedown" else -table.height
            table.top = max(0, table.top + step)
            table.go(table.index + step)
        elif name in ("home", "end"):
            table.go(0 if name == "home" else len(table.shown))
        else:
            return False
        return True

    def choose(self, which: int) -> None:
        """Show the other table, or this one.

        :param which: its number in ``tables``
        """
        self.table = self.tables[which]

    def sort_by(self, column: Column) -> None:
        """Order the table by a column; by the one that it is ordered by already: the other way round."""
        if self.table.sort is column:
            self.table.inverted = not self.table.inverted
        else:
            self.table.sort, self.table.inverted = column, False
        self.table.order()

    def _key_search(self, name: str) -> Order | None:
        table = self.table
        if name in ("enter", "escape", "f10"):
            self.mode = "table"
        elif name in ("f3", "shift+f3", "f15"):
            step = 1 if name == "f3" else -1
            self.found = bool(self.typed) and table.find(self.typed, table.index + step, step)
        elif not self._move(name):
            self._edit(name)
        return None

    def _key_filter(self, name: str) -> Order | None:
        if name == "escape":
            self._type("")
        if name in ("enter", "escape", "f10", "f4"):
            self.mode = "table"
        elif not self._move(name):
            self._edit(name)
        return None

    def _edit(self, name: str) -> None:
        if name == "backspace" or name == "ctrl+h":
            self._type(self.typed[:-1])
        elif name in ("ctrl+u", "ctrl+w"):
            self._type("")
        elif len(name) == 1 and name.isprintable():
            self._type(self.typed + name)

    def _type(self, text: str) -> None:
        self.typed = text
        if self.mode == "search":
            self._searched = text
            self.found = self.table.find(text, self._origin) if text else True
        else:
            self.table.wanted = text
            self.table.order()

    def _key_columns(self, name: str) -> Order | None:
        columns = self.table.columns
        if name in ("enter", " "):
            if columns[self.column] is not self.table.sort:
                self.sort_by(columns[self.column])
            self.mode = "table"
        elif name in ("escape", "q", "f6", "f10"):
            self.mode = "table"
        elif name in _STEPS:
            self.column = max(0, min(self.column + _STEPS[name], len(columns) - 1))
        elif name in ("home", "pageup"):
            self.column = 0
        elif name in ("end", "pagedown"):
            self.column = len(columns) - 1
        return None

    def _key_page(self, name: str) -> Order | None:
        last = max(0, self.page_lines - self.page_height)
        if name in _STEPS:
            self.page_top += _STEPS[name]
        elif name in ("pageup", "pagedown"):
            self.page_top += self.page_height if name == "pagedown" else -self.page_height
        elif name in ("home", "end"):
            self.page_top = 0 if name == "home" else last
        elif name in ("escape", "q", "enter", " ", "f1", "?", "h", "v", "f10"):
            self.mode = "table"
        self.page_top = max(0, min(self.page_top, last))
        return None

    def _open(self, title: str, page: Callable[[], list[str]]) -> None:
        self.mode, self.page_title, self.page, self.page_top = "page", title, page, 0

    def _open_details(self) -> None:
        row, table = self.table.marked, self.table
        if row is None or self.frame is None:
            return
        last = (row, self.frame)

        def page() -> list[str]:
            # As it is now; or as it was when it was last seen.
            nonlocal last
            found = next((other for other in table.rows if other.key == row.key), None)
            if found is not None and self.frame is not None:
                last = (found, self.frame)
            return details.row_lines(*last, gone=found is None)

        self._open("Object" if table is self.tables[0] else "Process", page)
