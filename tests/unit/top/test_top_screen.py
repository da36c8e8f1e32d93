# SPDX-License-Identifier: MIT
"""Keys, and the lines that are drawn then, without a terminal."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from top_samples import an_object, audit, many, sample

from ptshare.audit.model import Process
from ptshare.top import draw
from ptshare.top.rows import OBJECTS, Column, frame
from ptshare.top.state import State


@pytest.fixture
def state() -> State:
    state = State()
    state.show(frame(many(), None))
    return state


def lines(state: State, width: int = 80, height: int = 24) -> list[str]:
    return ["".join(text for text, _ in line) for line in draw.screen(state, width, height)]


def press(state: State, *keys: str) -> list[str]:
    """The lines then."""
    lines(state)
    for key in keys:
        assert state.key(key) is None
        found = lines(state)
    return found


def marked(state: State) -> str:
    """The line that stands out."""
    (found,) = (
        "".join(text for text, _ in line)
        for line in draw.screen(state, 80, 24)[6:-1]
        if line and line[0][1] == "cyan reverse"
    )
    return found


def test_the_first_screen(state: State) -> None:
    head, tables, second, verdict, tabs, heading, first, *_, keys = lines(state)
    assert head.startswith("db1, Linux 6.1.0   ")
    assert head.endswith("   1 not readable")
    assert tables == "PageTables 10 MiB, 1.0% of 1 GiB   growth -"
    assert second == "duplicate 1.5 MiB   saved now 0 B   faults/s - minor, - major"
    assert verdict.startswith("10 MiB of page tables, 1.5 MiB duplicate, nearly all from postgres on /srv/")
    assert tabs == " Objects 40   Processes 40  by TABLES, largest first"
    assert heading.split() == ["TABLES", "GROWTH", "SHARING", "MAPPERS", "SIZE", "COMMAND", "OBJECT"]
    assert first.split() == ["1.6M", "-", "1.4M", "4", "64M", "postgres", r"/srv/[bold]da…old]\n\x1b[2J"]
    assert keys.startswith("F1Help F3Search F4Filter")
    assert keys.rstrip().endswith("F10Quit")


def test_growth_and_faults_in_the_header() -> None:
    state = State()
    former = sample(audit(page_tables=1 << 20))
    state.show(frame(sample(audit(page_tables=3 << 20), at=104.0, minor=4000, major=2), former))
    assert lines(state)[1].endswith("growth +2 MiB in 4.0 s")
    assert lines(state)[2].endswith("faults/s 1,000 minor, 0.5 major")


def test_part_of_the_host() -> None:
    found = audit(processes=[Process(7, "a", "root", 8192)])
    found.scope = "pid 7"
    found.host.partial.append("in a container")
    state = State()
    state.show(frame(sample(found), None))
    assert "not all of the host   pid 7" in lines(state)[0]
    assert lines(state)[1] == "PageTables 10 MiB, 1.0%   asked for 8 KiB   growth -"
    assert "not all of the host: in a container" in press(state, "v")


def test_nothing_there() -> None:
    state = State()
    assert lines(state)[0].startswith("reading")
    press(state, *"/a", "enter", *"\\b", "enter", " ", "v", "q", "f6", "enter", "tab", "end", "I")
    state = State()
    empty = audit(memory=0, page_tables=0)
    state.show(frame(sample(empty), None))
    assert "nothing large is mapped" in lines(state) or "no process is to be seen" in lines(state)
    assert press(state, " ", "down", "end", "pageup", "n")[-1].startswith("F1")
    empty.scope = "pid 7"
    state.show(frame(sample(empty), None))
    assert "no process that was asked for has memory of its own" in lines(state)


def test_a_refresh_that_fails_is_told_and_the_table_stays(state: State) -> None:
    state.problem = "cannot read /proc: Permission denied"
    assert lines(state)[3] == state.problem
    assert "/srv/" in marked(state)
    assert press(state, "v")[5] == state.problem
    state.show(frame(many(), None))
    assert state.problem not in press(state, "q")


def test_columns_for_the_width() -> None:
    def names(width: int) -> list[str]:
        return [column.name for column in draw.fitting(OBJECTS, width)]

    assert names(160) == [column.name for column in OBJECTS]
    assert names(80) == ["TABLES", "GROWTH", "SHARING", "MAPPERS", "SIZE", "COMMAND", "OBJECT"]
    assert names(40) == ["TABLES", "GROWTH", "OBJECT"]
    assert names(1) == ["TABLES", "OBJECT"]


@pytest.mark.parametrize(
    "keys", [[], ["tab"], ["f1"], ["f6"], ["v"], [" "], ["tab", " "], ["/", "x"], ["\\"]]
)
def test_all_sizes(state: State, keys: list[str]) -> None:
    """No line is wider than the terminal, and there are as many as it has."""
    press(state, *keys) if keys else None
    for width in (*range(1, 30), 79, 80, 81, 132, 160, 250):
        for height in (1, 2, 3, 5, 8, 15, 16, 24, 50):
            found = lines(state, width, height)
            assert len(found) == height
            assert max(map(cell_len, found)) <= width
            assert not any("\x1b" in line or "\n" in line for line in found)


def test_moving(state: State) -> None:
    rows = [str(row.values["OBJECT"]) for row in state.table.shown]
    for keys, at in (
        (["down"], 1),
        (["pagedown"], 18),
        (["up", "up"], 16),
        (["end"], 39),
        (["down"], 39),
        (["pageup"], 22),
        (["home"], 0),
        (["up"], 0),
    ):
        press(state, *keys)
        assert state.table.index == at
        assert rows[at][-6:] in marked(state)


def test_the_mark_stays_with_its_row(state: State) -> None:
    press(state, "down", "down")
    name = "/dev/shm/table.38"
    assert name in marked(state)
    more = many()
    more.audit.objects += [an_object(f"/more.{inode}", 390, inode) for inode in range(200, 230)]
    state.show(frame(more, None))
    assert name in marked(state)
    # It is gone: the mark stays where it was.
    at = state.table.index
    more.audit.objects = [item for item in more.audit.objects if item.name != name]
    state.show(frame(more, None))
    assert state.table.index == at
    press(state, "home")
    more.audit.objects.append(an_object("/largest", 5000, 300))
    state.show(frame(more, None))
    assert "/largest" in marked(state)


def test_order(state: State) -> None:
    assert "smallest first" in press(state, "I")[4]
    assert "table.01" in marked(state)
    found = press(state, "f6")
    assert [line.split()[0] for line in found[5:15]] == [column.name for column in OBJECTS]
    assert press(state, "end", "enter")[4].endswith("by OBJECT, first to last")
    assert "table.01" in marked(state)
    assert "table.39" in press(state, "I")[7]
    press(state, ">", "home", "escape")
    assert state.table.sort.name == "OBJECT"
    # The other table has an order of its own.
    assert press(state, "tab")[4].endswith("by TABLES, largest first")


def test_the_other_table(state: State) -> None:
    found = press(state, "tab")
    assert found[5].split() == ["PID", "USER", "TABLES", "GROWTH", "MINFLT/s", "MAJFLT/s", "COMMAND"]
    assert found[6].split() == ["1038", "postgres", "138K", "-", "-", "-", "postgres", "-D", "/srv"]
    assert "TabObjects" in found[-1]
    assert press(state, "shift+tab")[5].split()[-1] == "OBJECT"


def test_search(state: State) -> None:
    found = press(state, *"/table.1")
    assert found[-1].startswith("F3Next EnterDone  Search: table.1")
    assert "table.19" in marked(state)
    press(state, "f3")
    assert "table.18" in marked(state)
    press(state, "shift+f3")
    assert "table.19" in marked(state)
    press(state, "5")
    assert "table.15" in marked(state)
    assert "(not found)" in press(state, "x")[-1]
    press(state, "backspace", "backspace", "enter", "n", "n")
    assert "table.17" in marked(state)
    press(state, "N")
    assert "table.18" in marked(state)
    # Round the end.
    press(state, *["n"] * 9)
    assert "table.19" in marked(state)
    # Keys of the table are letters here.
    assert "Search: qIp" in press(state, *"/qIp")[-1]
    assert not state.paused


def test_filter(state: State) -> None:
    found = press(state, *"\\SHM/table.1")
    assert found[4].startswith(" Objects 10 of 40   Processes 40  by TABLES")
    assert found[4].endswith("filter: SHM/table.1")
    assert sum("table" in line for line in found[6:-1]) == 10
    found = press(state, "f4", "f4", "z")
    assert "nothing matches the filter" in found
    press(state, "backspace", "enter")
    assert len(state.table.shown) == 10
    press(state, "f4", "escape")
    assert len(state.table.shown) == 40
    press(state, "f4")
    state.typed_text("table\n.01")
    assert len(state.table.shown) == 1
    assert press(state, "ctrl+u")[-1].rstrip().endswith("Filter:")


def test_details_of_an_object(state: State) -> None:
    text = "\n".join(press(state, " "))
    assert r"name          /srv/[bold]data[/bold]\n\x1b[2J" in text
    assert "kind          file, MAP_SHARED (ext4)" in text
    assert "page tables   1.6 MiB" in text
    assert "needed once   128 KiB" in text
    assert "sharing       saves 1.4 MiB" in text
    assert "mapped by 4:\nprocesses  page tables  name\n        4      1.6 MiB  postgres" in text
    # As it is now; and when it is gone, as it was.
    more = many()
    more.audit.objects[-1].tables = 450
    state.show(frame(more, None))
    assert "page tables   1.8 MiB" in "\n".join(lines(state))
    del more.audit.objects[-1]
    state.show(frame(more, None))
    found = lines(state)
    assert found[5].startswith("gone; as it was at ")
    assert "page tables   1.8 MiB" in found
    assert press(state, "enter")[4].startswith(" Objects 39")


def test_details_of_processes(state: State) -> None:
    press(state, "tab", "end")
    text = "\n".join(press(state, "enter"))
    assert "process       1 systemd" in text
    assert "of objects    its mappings cannot be read" in text
    assert "minor faults  - a second (0 so far)" in text
    assert "systemd -D /srv" in text


def test_help_is_whole(state: State) -> None:
    found = press(state, "f1")
    assert found[4].startswith(" Keys and columns, lines 1 to 18 of ")
    seen = set(found[5:-1])
    for _ in range(5):
        seen |= set(press(state, "pagedown")[5:-1])
    for text in ("TABLES", "MAJFLT/s", "F4 \\", "q F10 Ctrl-C"):
        assert any(line.startswith(text) for line in seen)
    assert press(state, "home")[5:-1] == found[5:-1]
    assert press(state, "end", "down")[-2].startswith("K, M, G")
    assert press(state, "q")[4].startswith(" Objects")


def test_what_is_left_to_the_terminal(state: State) -> None:
    for key in ("q", "f10", "ctrl+c"):
        assert state.key(key) == "quit"
    state.key("f1")
    assert state.key("ctrl+c") == "quit"
    assert state.key("ctrl+z") == "suspend"
    assert state.key("q") is None
    assert state.key("r") == "refresh"
    press(state, "p")
    assert "PAUSED" in lines(state)[0]
    assert "pGo on" in lines(state)[-1]
    press(state, "Z")
    assert "PAUSED" not in lines(state)[0]


def test_where_the_mouse_is(state: State) -> None:
    found = lines(state)
    for x, column in ((0, "TABLES"), (7, "GROWTH"), (79, "OBJECT")):
        hit = draw.hit(state, 80, 24, x, 5)
        assert isinstance(hit, Column)
        assert hit.name == column
    assert [draw.hit(state, 80, 24, 3, y) for y in (4, 6, 22, 23)] == [None, 0, 16, None]
    press(state, "end")
    assert draw.hit(state, 80, 24, 3, 22) == 39
    assert draw.key_at(state, found[-1].index("Filter")) == "f4"
    assert draw.key_at(state, 99) is None


@given(st.text(max_size=60), st.integers(0, 40))
def test_cutting(text: str, width: int) -> None:
    text = "".join(filter(str.isprintable, text))
    for cut in (draw.cut, draw.cut_middle):
        short = cut(text, width)
        assert cell_len(short) <= width
        assert short == text or "…" in short or width == 0
    for line in draw.broken(text, width):
        assert cell_len(line) <= max(width, 4)


def test_cutting_in_the_middle() -> None:
    assert draw.cut_middle("/var/lib/base/16384", 11) == "/var/…16384"
    assert draw.cut_middle("表表表表", 5) == "表…表"
    assert list(draw.broken("one two three", 8)) == ["one two", "  three"]
    assert list(draw.broken("/no/spaces/at/all", 10)) == ["/no/spaces", "  /at/all"]


def test_any_keys() -> None:
    keys = [
        *("q", "f1", "f3", "f4", "f6", "f10", "I", "tab", "up", "down", "pageup", "pagedown", "home", "end"),
        *(" ", "enter", "escape", "backspace", "v", "p", "n", "N", "/", "\\", "t", "1", "|", "f15", "ctrl+u"),
    ]
    chance = random.Random(7)
    states = [frame(many(), None), frame(sample(), None)]
    for _ in range(40):
        state = State()
        for _ in range(40):
            if chance.random() < 0.1:
                state.show(chance.choice(states))
            state.key(chance.choice(keys))
            lines(state, chance.choice((20, 80)), chance.choice((4, 24)))
