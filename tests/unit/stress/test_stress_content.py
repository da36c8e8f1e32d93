# SPDX-License-Identifier: MIT
"""What a page must hold, and what is said of one that does not."""

import pytest

from ptshare.stress.content import (
    CONSTANT,
    ZEROS,
    belongs,
    consists_of,
    content,
    describe,
    following,
    is_zero,
)
from ptshare.syscalls import PAGE

RUN = 0x1234_5678_9ABC


def test_no_two_pages_are_alike() -> None:
    pages = {
        content(file, page, version, run)
        for file in (0, 1)
        for page in (0, 1, 511)
        for version in (CONSTANT, following(CONSTANT, 5, zero=False), following(CONSTANT, 6, zero=False))
        for run in (RUN, RUN + 1)
    }
    assert len(pages) == 36
    assert {len(page) for page in pages} == {PAGE}


def test_versions() -> None:
    first = following(0, 3, zero=False)
    hole = following(first, 127, zero=True)
    again = following(hole, 0, zero=False)
    assert (first >> 8, hole >> 8, again >> 8) == (1, 2, 3)
    assert [is_zero(version) for version in (0, first, hole, again, CONSTANT)] == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert content(1, 2, hole, RUN) == content(1, 2, 0, RUN) == ZEROS


def test_a_page_between_two_versions() -> None:
    old, new = content(1, 2, 1 << 8, RUN), content(1, 2, 2 << 8, RUN)
    for at in (0, 1, 33, 2048, PAGE):
        torn = new[:at] + old[at:]
        assert consists_of(torn, [old, new])
        assert belongs(torn, 1, 2, RUN)
    assert not consists_of(old[:100] + b"\xaa" + old[101:], [old, new])
    assert consists_of(new[:77] + ZEROS[77:], [ZEROS, new])


@pytest.mark.parametrize(
    "other",
    [content(1, 3, 1 << 8, RUN), content(0, 2, 1 << 8, RUN), content(1, 2, 1 << 8, RUN + 1), b"\x01" * PAGE],
)
def test_a_foreign_page_does_not_belong(other: bytes) -> None:
    own = content(1, 2, 1 << 8, RUN)
    assert not belongs(other, 1, 2, RUN)
    assert not belongs(own[:-32] + other[-32:], 1, 2, RUN)


def test_descriptions() -> None:
    own = content(1, 2, following(4 << 8, 9, zero=False), RUN)
    assert describe(own) == f"file 1 page 2 version 5 by process 9 of run {RUN:x}"
    assert describe(ZEROS) == "zeros"
    assert describe(own[:64] + ZEROS[64:]).endswith("; zeros (from byte 64 on)")
    assert "no page of a stress run: 6161" in describe(b"a" * PAGE)
    assert "with a wrong checksum" in describe(own[:16] + b"\xff" + own[17:])
    assert "122 more pieces" in describe(b"".join(bytes([n]) * 32 for n in range(128)))
