# SPDX-License-Identifier: MIT
"""The screen as lines of text, none wider than the terminal."""

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len

from ptshare.audit.words import plain
from ptshare.sizes import format_bytes
from ptshare.top.details import clock
from ptshare.top.rows import Column, Row, Value, fault_rate, growth, rate, total
from ptshare.top.state import State

__all__ = ["KEYS", "Line", "broken", "cut", "cut_middle", "fitting", "hit", "key_at", "screen"]

#: Texts and how each is shown, as rich.style.Style.parse() reads it.
Line = list[tuple[str, str]]

_NAME, _BOLD, _ALARM = "cyan", "bold", "bold red"
# Reverse, so that they stand out without colours, too, and on any background.
_HEADING, _SORTED, _MARK, _LABEL = "green reverse", "cyan reverse", "cyan reverse", "cyan reverse"
#: A name that is cut further says little.
_LEAST_NAME = 24

#: The line at the bottom: key as it is written, what it does, key as it is named.
KEYS = {
    "table": (
        ("F1", "Help", "f1"),
        ("F3", "Search", "f3"),
        ("F4", "Filter", "f4"),
        ("F6", "Sort", "f6"),
        ("Tab", "Processes", "tab"),
        ("Spc", "Details", " "),
        ("v", "Verdict", "v"),
        ("p", "Pause", "p"),
        ("F10", "Quit", "f10"),
    ),
    "search": (("F3", "Next", "f3"), ("Enter", "Done", "enter")),
    "filter": (("Enter", "Done", "enter"), ("Esc", "Clear", "escape")),
    "columns": (("Enter", "Sort", "enter"), ("Esc", "Cancel", "escape")),
    "page": (("Esc", "Close", "escape"),),
}


def cut(text: str, width: int) -> str:
    """The beginning, in so many cells at most."""
    if cell_len(text) <= width:
        return text
    return _head(text, width - 1) + "…" if width > 0 else ""


def cut_middle(text: str, width: int) -> str:
    """Beginning and end, in so many cells at most."""
    if cell_len(text) <= width:
        return text
    if width < 3:
        return cut(text, width)
    head = _head(text, (width - 1) // 2)
    tail = _head(text[::-1], width - 1 - cell_len(head))[::-1]
    return f"{head}…{tail}"


def _head(text: str, width: int) -> str:
    used = 0
    for at, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[:at]
    return text


def broken(text: str, width: int) -> Iterator[str]:
    """All of it in lines, broken between words where that is possible, others set in."""
    width = max(width, 4)
    indent = ""
    while cell_len(indent + text) > width:
        head = _head(text, width - len(indent))
        space = head.rfind(" ", len(head) // 2)
        if space > 0 and text[len(head) : len(head) + 1] != " ":
            head = head[:space]
        yield indent + head.rstrip()
        text = text[len(head) :].lstrip(" ")
        indent = "  "
    yield indent + text


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that there is room for."""
    found = list(columns)
    while len(found) > 2:
        fixed = sum(column.width + 1 for column in found if column.width)
        if width - fixed >= _LEAST_NAME:
            break
        found.remove(max(found, key=lambda column: column.rank))
    return found


def screen(state: State, width: int, height: int) -> list[Line]:
    """All lines.

    :param width: of the terminal, cells
    :param height: the same, lines
    """
    head = _header(state, width)
    # What is left for the table counts: on a low terminal the header goes first.
    head = head[: max(0, height - 8)] if height < 16 else head
    body = max(0, height - len(head) - 1)
    if state.mode == "page":
        lines = [*head, *_page(state, width, body)]
    elif state.mode == "columns":
        lines = [*head, *_columns(state, width, body)]
    else:
        lines = [*head, *_table(state, width, body)]
    lines = lines[: max(0, height - 1)]
    lines += [[] for _ in range(height - 1 - len(lines))]
    return [*lines, _bottom(state, width)]


def _joined(parts: Iterable[tuple[str, str, str]], width: int) -> Line:
    """Name, value and style of each, as many as there is room for."""
    line: Line = []
    left = width
    for name, value, style in parts:
        needed = cell_len(name) + cell_len(value) + bool(name and value)
        if needed > left:
            if not line:
                line.append((cut(f"{name} {value}".strip(), width), style))
            break
        line += [(f"{name} " if name and value else name, _NAME), (value, style), ("   ", "")]
        left -= needed + 3
    return line[:-1] if line and line[-1] == ("   ", "") else line


def _header(state: State, width: int) -> list[Line]:
    if state.frame is None:
        first: Line = [(cut("reading what processes have mapped ...", width), _BOLD)]
        return [first, [], [], _verdict(state, width)]
    shown = state.frame
    sample, audit = shown.sample, shown.sample.audit
    host = audit.host
    seconds = sample.at - shown.former.at if shown.former else 0.0
    share = f", {host.page_tables / host.memory:.1%}" if host.memory else ""
    if share and not audit.scope:  # else there is no room for it
        share += f" of {format_bytes(host.memory)}"
    tables = [("PageTables", format_bytes(host.page_tables) + share, _BOLD)]
    if audit.scope:
        tables.append(("asked for", format_bytes(total(audit)), _BOLD))
    grown = growth(shown)
    if grown is None:
        tables.append(("growth", "-", _BOLD))
    else:
        text = f"{'+' if grown > 0 else ''}{format_bytes(grown)} in {seconds:.1f} s"
        tables.append(("growth", text, _ALARM if grown > 0 else _BOLD))
    minor, major = fault_rate(sample.faults, shown.former.faults if shown.former else None, seconds)
    return [
        _joined(_first(state), width),
        _joined(tables, width),
        _joined(
            (
                ("duplicate", format_bytes(shown.duplicate), _BOLD),
                ("saved now", format_bytes(shown.saved_now), _BOLD),
                ("faults/s", f"{rate(minor)} minor, {rate(major)} major", _BOLD),
            ),
            width,
        ),
        _verdict(state, width),
    ]


def _first(state: State) -> Iterator[tuple[str, str, str]]:
    assert state.frame is not None
    audit = state.frame.sample.audit
    yield ("", f"{plain(audit.host.name)}, Linux {plain(audit.host.kernel)}", _BOLD)
    yield ("", clock(audit.host), "bold yellow" if state.paused else "")
    if state.paused:
        yield ("", "PAUSED", "bold yellow")
    if missing := sum(unread.count for unread in audit.unread):
        yield ("", f"{missing:,} not readable", "bold yellow")
    if audit.host.partial:
        yield ("", "not all of the host", "bold yellow")
    if audit.scope:
        yield ("", cut(plain(audit.scope), 60), "")


def _verdict(state: State, width: int) -> Line:
    if state.problem:
        return [(cut(state.problem, width), _ALARM)]
    if state.frame is None:
        return []
    return [(cut(state.frame.verdict, width), "")]


def _tabs(state: State, width: int) -> Line:
    line: Line = []
    for table in state.tables:
        chosen = table is state.table
        count = f"{len(table.shown):,}"
        if len(table.shown) != len(table.rows):
            count += f" of {len(table.rows):,}"
        line += [(f" {table.title} {count} ", "bold reverse" if chosen else ""), (" ", "")]
    table = state.table
    order = "first to last" if not table.down else "last to first"
    if table.sort.name not in ("OBJECT", "COMMAND", "KIND", "USER", "PID"):
        order = "largest first" if table.down else "smallest first"
    rest = [f"by {table.sort.name}, {order}"]
    if table.wanted:
        rest.append(f"filter: {table.wanted}")
    left = width - sum(cell_len(text) for text, _ in line)
    return [*line, (cut("  ".join(rest), left), "")] if left > 0 else [(cut(line[0][0], width), line[0][1])]


def _table(state: State, width: int, height: int) -> Iterator[Line]:
    table = state.table
    columns = fitting(table.columns, width)
    yield _tabs(state, width)
    heading: Line = []
    for column in columns:
        room = _room(column, columns, width)
        text = _cell(column.name, column, room)
        heading.append((text, _SORTED if column is table.sort else _HEADING))
        heading.append((" ", _HEADING))
    yield _padded(heading[:-1], width, _HEADING)
    rows = table.scrolled(height - 2)
    if not rows and height > 2:
        yield [(cut(_why_empty(state), width), "")]
    for at, row in enumerate(rows, table.top):
        yield _row(row, columns, width, at == table.index)


def _why_empty(state: State) -> str:
    table = state.table
    if state.frame is None:
        return ""
    if table.rows:
        return "nothing matches the filter"
    audit = state.frame.sample.audit
    if not audit.processes:
        return (
            "no process that was asked for has memory of its own"
            if audit.scope
            else "no process is to be seen"
        )
    return "nothing large is mapped"


def _room(column: Column, columns: Sequence[Column], width: int) -> int:
    if column.width:
        return column.width
    return max(0, width - sum(other.width + 1 for other in columns if other.width))


def _cell(text: str, column: Column, room: int) -> str:
    # Paths say most at both ends, command lines at the beginning.
    text = cut_middle(text, room) if column.name == "OBJECT" else cut(text, room)
    padding = " " * (room - cell_len(text))
    return text + padding if column.left else padding + text


def _row(row: Row, columns: Sequence[Column], width: int, marked: bool) -> Line:
    line: Line = []
    for column in columns:
        value: Value = row.values[column.name]
        style = ""
        if column.alarming and isinstance(value, (int, float)) and value > 0:
            style = _ALARM
        text = _cell(column.show(value), column, _room(column, columns, width))
        line += [(text, _MARK if marked else style), (" ", _MARK if marked else "")]
    return _padded(line[:-1], width, _MARK if marked else "")


def _padded(line: Line, width: int, style: str) -> Line:
    """Exactly as wide as the terminal; where not even the first column fits, cut."""
    found: Line = []
    left = width
    for text, how in line:
        text = _head(text, left)
        left -= cell_len(text)
        found.append((text, how))
    return [*found, (" " * left, style)] if left else found


def _columns(state: State, width: int, height: int) -> Iterator[Line]:
    yield _padded([(" Sort by", _HEADING)], width, _HEADING)
    room = max(1, height - 1)
    top = max(0, min(state.column - room + 1, len(state.table.columns) - room))
    for at, column in enumerate(state.table.columns[top : top + room], top):
        text = f" {column.name:<10} {column.meaning}"
        style = _MARK if at == state.column else ""
        yield _padded([(cut(text, width), style)], width, style)


def _page(state: State, width: int, height: int) -> Iterator[Line]:
    lines = [part for line in state.page() for part in broken(line, width)]
    state.page_lines, state.page_height = len(lines), max(1, height - 1)
    state.page_top = max(0, min(state.page_top, len(lines) - state.page_height))
    title = f" {state.page_title}"
    if len(lines) > state.page_height:
        last = min(len(lines), state.page_top + state.page_height)
        title += f", lines {state.page_top + 1} to {last} of {len(lines)}"
    yield _padded([(cut(title, width), _HEADING)], width, _HEADING)
    for line in lines[state.page_top : state.page_top + state.page_height]:
        yield [(_head(line, width), "")]


def _labels(state: State) -> Iterator[tuple[str, str, str]]:
    for key, label, name in KEYS[state.mode]:
        if label == "Processes":
            label = state.tables[state.table is state.tables[0]].title
        elif label == "Pause" and state.paused:
            label = "Go on"
        yield key, label, name


def _bottom(state: State, width: int) -> Line:
    line: Line = []
    for key, label, _ in _labels(state):
        line += [(key, ""), (f"{label} ", _LABEL)]
    if state.mode in ("search", "filter"):
        prompt = " Search: " if state.mode == "search" else " Filter: "
        line += [(prompt, _BOLD)]
        room = max(1, width - sum(cell_len(text) for text, _ in line) - 1)
        tail = " (not found)" if not state.found and state.mode == "search" else ""
        typed = state.typed
        while cell_len(typed + tail) > room and typed:
            typed = typed[1:]
        line += [(typed, ""), (" ", "reverse"), (tail, _ALARM)]
    return _padded(line, width, _LABEL if state.mode not in ("search", "filter") else "")


def key_at(state: State, x: int) -> str | None:
    """The key that stands there in the line at the bottom."""
    left = 0
    for key, label, name in _labels(state):
        left += len(key) + len(label) + 1
        if x < left:
            return name
    return None


def hit(state: State, width: int, height: int, x: int, y: int) -> Column | int | None:
    """What of the table stands there.

    :returns: a column: its heading; a number: that row of ``state.table.shown``
    """
    lines = len(screen(state, width, height)) - 1
    rows = state.table.height
    first = lines - rows
    if state.mode not in ("table", "search", "filter"):
        return None
    if y == first - 1:
        columns = fitting(state.table.columns, width)
        left = 0
        for column in columns:
            left += _room(column, columns, width) + 1
            if x < left:
                return column
    at = state.table.top + y - first
    return at if first <= y < lines and at < len(state.table.shown) else None
