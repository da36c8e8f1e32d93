# SPDX-License-Identifier: MIT
"""Rows of both tables: growth, faults a second, order, search."""

import pytest
from top_samples import PAGE, an_object, audit, sample

from ptshare.audit.model import MappedObject, Process
from ptshare.top import rows
from ptshare.top.rows import OBJECTS, PROCESSES, Column, Frame, arrange, compact, frame, rate, signed


def column(name: str, columns: tuple[Column, ...] = OBJECTS) -> Column:
    return next(column for column in columns if column.name == name)


def objects(now: list[MappedObject], before: list[MappedObject] | None = None) -> dict[str, rows.Row]:
    former = None if before is None else sample(audit(before))
    return {str(row.values["OBJECT"]): row for row in frame(sample(audit(now)), former).objects}


def processes(now: list[Process], before: list[Process], **more: int) -> Frame:
    return frame(sample(audit(processes=now), at=104.0, **more), sample(audit(processes=before)))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (512, "512"),
        (4096, "4K"),
        (28 << 10, "28K"),
        (1536, "1.5K"),
        (1023 << 10, "1023K"),
        ((1 << 20) - 1, "1M"),
        (1 << 20, "1M"),
        (102348 << 10, "99.9M"),
        (102399 << 10, "100M"),
        (1023 << 30, "1023G"),
        (3 << 60, "3E"),
        (-(1000 << 20), "-1000M"),
        (None, "-"),
    ],
)
def test_sizes_have_six_cells(number: int | None, text: str) -> None:
    assert compact(number) == text
    assert len(signed(number)) <= 6


def test_signs() -> None:
    assert [signed(number) for number in (4096, 0, -4096, None)] == ["+4K", "0", "-4K", "-"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.04, "0.0"),
        (0.5, "0.5"),
        (9.96, "10"),
        (123456.4, "123,456"),
        (999999.6, "1.0M"),
        (12.34e6, "12.3M"),
        (5e9, "5.0G"),
        (None, "-"),
    ],
)
def test_rates_have_eight_cells(number: float | None, text: str) -> None:
    assert rate(number) == text
    assert len(text) <= 8


def test_growth_of_objects() -> None:
    before = [an_object("a", 10, 1), an_object("b", 10, 2), an_object("gone", 10, 4)]
    # b has been removed meanwhile, which changes its name; c is new.
    now = [an_object("a", 14, 1), an_object("b (deleted)", 3, 2), an_object("c", 5, 3)]
    found = {name: row.values["GROWTH"] for name, row in objects(now, before).items()}
    assert found == {"a": 4 * PAGE, "b (deleted)": -7 * PAGE, "c": 5 * PAGE}
    assert [row.values["GROWTH"] for row in objects(now).values()] == [None] * 3


def test_a_file_that_is_mapped_both_ways_is_two() -> None:
    before = [an_object("a", 10), an_object("a", 1, shared=False)]
    now = [an_object("a", 11), an_object("a", 1, shared=False)]
    found = frame(sample(audit(now)), sample(audit(before))).objects
    assert sorted((row.values["TABLES"], row.values["GROWTH"]) for row in found) == [
        (PAGE, 0),
        (11 * PAGE, PAGE),
    ]


def test_values_of_an_object() -> None:
    item = an_object("a", 100, commands={"postgres": (3, 90), "psql": (1, 10), "b": (0, 0)}, linked=9)
    values = objects([item])["a"].values
    assert values["TABLES"] == 100 * PAGE
    assert values["SHARING"] == 68 * PAGE
    assert values["HUGE"] == 100 * PAGE
    assert values["NOW"] == 9 * PAGE
    assert values["COMMAND"] == "postgres +2"
    small = objects([an_object("a", 1, size=4096, kind="file")])["a"].values
    assert (small["SHARING"], small["HUGE"]) == (None, None)
    assert set(values) == {column.name for column in OBJECTS}


def test_names_that_cannot_be_printed() -> None:
    (name,) = objects([an_object("\x1b]0;x\x07\n\udcff[red]", 1)])
    assert name == r"\x1b]0;x\x07\n\udcff[red]"
    (name,) = objects([an_object("", 1, 5)])
    assert name == "memfd 0:1 inode 5"


def test_growth_and_faults_of_processes() -> None:
    before = [Process(1, "a", "root", 8192), Process(2, "b", "root", 8192)]
    now = [Process(1, "a", "root", 12288, tables=1), Process(3, "c", "root", 4096, read=False)]
    first, third = processes(now, before, minor=400, major=8).processes
    assert (first.values["GROWTH"], first.values["MINFLT/s"], first.values["MAJFLT/s"]) == (4096, 100, 2)
    assert (first.values["OBJECTS"], first.values["OTHERS"], first.values["SHARED"]) == (4096, 8192, None)
    assert (third.values["GROWTH"], third.values["MINFLT/s"], third.values["MAJFLT/s"]) == (4096, None, None)
    assert (third.values["OBJECTS"], third.values["OTHERS"]) == (None, None)
    assert first.values["COMMAND"] == "a -D /srv"
    assert set(first.values) == {column.name for column in PROCESSES}


def test_a_number_that_was_given_to_another_process() -> None:
    before, now = [Process(1, "a", "root", 8192)], [Process(1, "b", "root", 12288)]
    (row,) = processes(now, before, started=8, minor=400).processes
    assert (row.values["GROWTH"], row.values["MINFLT/s"]) == (12288, None)


def test_growth_in_all() -> None:
    former = sample(audit(page_tables=1000))
    assert rows.growth(frame(sample(audit(page_tables=1500)), former)) == 500
    assert rows.growth(frame(former, None)) is None
    part = audit(processes=[Process(1, "a", "root", 8192)])
    part.scope = "pid 1"
    assert rows.total(part) == 8192


def test_order() -> None:
    names = {"a": 5, "B": 7, "c": 5, "d": 1}
    found = list(objects([an_object(name, tables, tables) for name, tables in names.items()]).values())

    def order(name: str, down: bool) -> str:
        return "".join(str(row.values["OBJECT"]) for row in arrange(found, column(name), down))

    assert order("TABLES", True) == "Bacd"
    assert order("TABLES", False) == "dacB"
    assert order("OBJECT", False) == "aBcd"
    assert order("OBJECT", True) == "dcBa"


@pytest.mark.parametrize("down", [True, False])
def test_what_is_not_known_is_last(down: bool) -> None:
    found = objects([an_object("a", 9, 1, size=1), an_object("b", 100, 2), an_object("c", 40, 3)]).values()
    ordered = [row.values["SHARING"] for row in arrange(found, column("SHARING"), down)]
    assert ordered == [*sorted([8 * PAGE, 68 * PAGE], reverse=down), None]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("shm", ["/dev/shm/A"]),
        ("SHM/a", ["/dev/shm/A"]),
        ("postgres", ["/dev/shm/A", "/srv/[x]"]),
        ("[x]", ["/srv/[x]"]),
        ("nothing", []),
        ("nothing|srv", ["/srv/[x]"]),
        ("|", ["/dev/shm/A", "/srv/[x]"]),
        ("srv|", ["/srv/[x]"]),
    ],
)
def test_filter(wanted: str, found: list[str]) -> None:
    shown = objects([an_object("/dev/shm/A", 9, 1), an_object("/srv/[x]", 9, 2)]).values()
    ordered = arrange(shown, column("OBJECT"), False, wanted)
    assert [row.values["OBJECT"] for row in ordered] == found
