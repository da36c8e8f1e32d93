# SPDX-License-Identifier: MIT
"""Scripts of ``ptshare explain``: what they say, and what is said of those that are wrong."""

import pytest

from ptshare.explain import script
from ptshare.explain.script import Fork, MakeFile, Map, Plain, Script, ScriptError, place, say_place

GIB, TIB = 1 << 30, 1 << 40


def test_each_kind_of_line() -> None:
    found = Script.parse(
        """
        # two processes
        file data 4G
        A mmap data 2M 2G rw at 1T        # a comment
        A mmap data 0 4M r at 0x20000000000 readonly ordinary
        A read 1T
        A read 1T+2M 4M
        A write 1T
        B fork A
        B mprotect 1T 4K -
        B dontneed 1T 2M
        B munmap 1T 1G
        B exit
        """
    )
    assert found.steps == (
        MakeFile("data", 4 * GIB),
        Map("A", "data", 2 << 20, 2 * GIB, 3, TIB),
        Map("A", "data", 0, 4 << 20, 1, 2 * TIB, readonly=True, ordinary=True),
        Plain("A", "read", TIB),
        Plain("A", "read", TIB + (2 << 20), 4 << 20),
        Plain("A", "write", TIB),
        Fork("B", "A"),
        Plain("B", "mprotect", TIB, 4096, 0),
        Plain("B", "dontneed", TIB, 2 << 20),
        Plain("B", "munmap", TIB, GIB),
        Plain("B", "exit"),
    )
    assert found.lines[0] == "file data 4G"
    assert len(found.lines) == len(found.steps)


def test_the_example_of_the_module_is_one() -> None:
    text = (script.__doc__ or "").partition("::\n")[2].partition("\nA process")[0]
    assert len(Script.parse(text).steps) == 12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file data", "line 1: wanted 'file NAME SIZE', such as 'file data 4G', found 'file data'"),
        ("file data 4X", "line 1: wanted a size such as 300GiB .*found '4X'"),
        ("file data 4G\nfile data 4G", "line 2: wanted a new file, found 'data', which is there already"),
        ("\n1 read 1T", "line 2: wanted a process such as A, or 'file NAME SIZE', found '1'"),
        ("A", "line 1: wanted a call of A, one of mmap, .*; found nothing"),
        ("A jump 1T", "line 1: wanted one of mmap, .*; found 'jump'"),
        ("A munmap 1T", "line 1: wanted such as 'A munmap 1T 2M', found 'A munmap 1T'"),
        ("A mmap data 0 2M rw at 1T", "line 1: wanted a file that a line before has made, found 'data'"),
        ("file d 1G\nA mmap d 0 2M rw 1T", "line 2: wanted 'A mmap FILE .* found 'A mmap d 0 2M rw 1T'"),
        ("file d 1G\nA mmap d 0 2M rq at 1T", "line 2: wanted rights such as rw, r, rx or -, found 'rq'"),
        ("file d 1G\nA mmap d 0 2M rw at 1T shared", "line 2: wanted 'A mmap FILE"),
        ("A read 1T 100", "line 1: wanted whole pages of 4 KiB, found '100'"),
        ("A read 200T", "line 1: wanted an address below 128T, found '200T'"),
        ("B fork A", "line 1: wanted a parent that is there, found 'A'"),
        ("A read 1T\nA fork A", "line 2: wanted a new name for the child, found 'A'"),
        ("A exit\nA read 1T", "line 2: A has ended"),
        ("file data 1G", "wanted a program that maps a file, found none"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(ScriptError, match=said):
        Script.parse(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2 << 20, "2M"),
        (TIB, "1T"),
        (TIB + GIB, "1T+1G"),
        (TIB + GIB + (2 << 20), "0x10040200000"),
        (TIB + 1, "0x10000000001"),
    ],
)
def test_places_are_said_as_they_are_read(value: int, text: str) -> None:
    assert say_place(value) == text
    assert place(text) == value
