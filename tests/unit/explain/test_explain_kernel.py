# SPDX-License-Identifier: MIT
"""The kernel's file, as recorded in a guest with tables of five levels."""

from pathlib import Path

import pytest

from ptshare.explain import kernel
from ptshare.explain.picture import Entry, Guest, Picture, Table

RECORDED = Path(__file__).with_name("tables.txt").read_text()
TIB, MIB, GIB = 1 << 40, 1 << 20, 1 << 30


@pytest.fixture
def picture() -> Picture:
    return kernel.parse(RECORDED)


def test_domains(picture: Picture) -> None:
    assert [(one.number, one.name) for one in picture.domains] == [
        (1, "inode 1024 of 00:01 rw- of rwx"),
        (2, "inode 1024 of 00:01 r-- of rwx"),
    ]
    assert picture.domains[0].tables[2:5] == [
        Table(1, 0, "0x101a6b000", 2),
        Table(0, 0, "0x100322000", 0),
        Table(0, 2 * MIB, "0x100325000", 1),
    ]


def test_processes(picture: Picture) -> None:
    first, second = picture.processes
    assert (first.name, first.pid) == ("process 65", 65)
    assert first.guests == [Guest(TIB, TIB + 2 * GIB, 0, 1), Guest(2 * TIB, 2 * TIB + 8 * MIB, 2 * MIB, 1)]
    # What stands above two guests is there once.
    assert first.entries[0] == Entry(3, 0, "0x100988000")
    assert len(first.entries) == 9
    # One process, although it is a guest of two domains.
    assert [guest.domain for guest in second.guests] == [1, 2]
    assert [entry.domain for entry in second.links()] == [1, 2, 2, 2, 2]


def test_equal_addresses_are_found(picture: Picture) -> None:
    shared = picture.shared()
    assert [(one.table.key, one.processes) for one in shared if len(one.processes) > 1] == [
        ("0x101a6b000", ("process 65", "process 66"))
    ]
    assert len(shared) == 9


def test_a_part_of_it(picture: Picture) -> None:
    part = picture.of([65])
    assert [process.pid for process in part.processes] == [65]
    assert [domain.number for domain in part.domains] == [1]


def test_what_a_newer_kernel_adds_is_left_out() -> None:
    more = RECORDED.replace(" links=", " new=1 links=") + "later id=1\n"
    assert kernel.parse(more) == kernel.parse(RECORDED)


def test_a_guest_that_comes_in_parts(picture: Picture) -> None:
    """As when it was split while the file was read: each part, and no entry twice."""
    line = " guest pid=65 start=0x20000000000 end=0x20000800000 offset=0x200000 pgd=0x100987\n"
    again = RECORDED.replace(
        "  own level=pmd start=0x20000000000", f"{line}  own level=pmd start=0x20000000000"
    )
    assert again != RECORDED
    assert kernel.parse(again) == picture


@pytest.mark.parametrize(
    "line",
    [
        "domain id=1",
        "domain id=x dev=0:1 inode=1 asked=r may=r mdwe=0 pgd=0x1",
        " table level=pte offset=0x0 pfn=0x1 links=0",
        "  link level=pte start=0x0 pfn=0x1",
        " guest pid",
        "",
    ],
)
def test_what_is_odd_is_said(line: str) -> None:
    with pytest.raises(kernel.KernelFileError, match=r"line 1: .* is not understood .* different versions"):
        kernel.parse(line + "\n")


def test_why_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel, "TABLES", str(tmp_path / "none"))
    assert not kernel.available()
    with pytest.raises(kernel.KernelFileError, match=r"MAP_SHARED_PT.*--script works anywhere"):
        kernel.read()
