# SPDX-License-Identifier: MIT
"""Sizes as people write and read them."""

import re
from fractions import Fraction

__all__ = ["format_bytes", "parse_bytes"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def format_bytes(number: float) -> str:
    """Bytes for people: at most four figures, and the unit."""
    unit = 0
    size = float(number)
    while abs(size) >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    digits = 0 if size == round(size) or unit == 0 else 1
    return f"{size:.{digits}f} {_UNITS[unit]}"


def parse_bytes(text: str) -> int:
    """Bytes of a size. ``K``, ``M``, ``G``, ``T``, ``P``, ``E``, alone or with ``iB``, are powers of 1024;
    with ``B`` they are powers of 1000.

    :param text: such as ``300GiB``, ``300G``, ``1.5T``, ``300GB``, ``4096``
    :raises ValueError: it is no size, or none of whole bytes
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)(iB|B)?", text.strip(), re.IGNORECASE | re.ASCII)
    # Of "300iB" the unit is missing.
    if match is None or (not match[2] and (match[3] or "").lower() == "ib"):
        raise ValueError(
            "wanted a size such as 300GiB or 300G (powers of 1024), or 300GB (powers of 1000), "
            f"found {text!r}; write a number and one of these units"
        )
    base = 1000 if (match[3] or "").lower() == "b" else 1024
    size = Fraction(match[1]) * base ** (" KMGTPE".index(match[2].upper()) if match[2] else 0)
    if size.denominator != 1:
        raise ValueError(f"wanted a size of whole bytes, found {text!r}; round it")
    return int(size)
