# SPDX-License-Identifier: MIT
"""Sizes, read and written."""

import pytest

from ptshare import sizes


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("300GiB", 300 << 30),
        ("300G", 300 << 30),
        ("300g", 300 << 30),
        ("300gib", 300 << 30),
        ("300 GiB", 300 << 30),
        ("300GB", 300 * 10**9),
        ("300gb", 300 * 10**9),
        ("1.5T", 3 << 39),
        ("0.1GB", 10**8),
        ("2M", 2 << 20),
        ("64KiB", 64 << 10),
        ("1P", 1 << 50),
        ("1EB", 10**18),
        ("4096", 4096),
        ("4096B", 4096),
        (" 7B ", 7),
        ("8kb", 8000),
        ("0", 0),
    ],
)
def test_sizes(text: str, number: int) -> None:
    assert sizes.parse_bytes(text) == number


@pytest.mark.parametrize(
    "text", ["", "G", "300X", "300iB", "300GiBs", "1e9", "0x10", "nan", "inf", "3,5G", "٣G", "-1G", "1 2"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"wanted a size such as 300GiB.*found.*; write a number"):
        sizes.parse_bytes(text)


def test_sizes_are_whole_bytes() -> None:
    with pytest.raises(ValueError, match=r"whole bytes, found '0\.3B'; round it"):
        sizes.parse_bytes("0.3B")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (300 << 30, "300 GiB"),
        (5 << 50, "5 PiB"),
        (512 << 60, "512 EiB"),
        (2000 << 60, "2000 EiB"),
    ],
)
def test_bytes_for_people(number: int, text: str) -> None:
    assert sizes.format_bytes(number) == text
