# SPDX-License-Identifier: MIT
"""The library that ``ptshare run`` puts into programs; in C, and built when ptshare is installed."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

__all__ = ["NotBuiltError", "library"]


class NotBuiltError(Exception):
    """The library was not built."""


def library() -> Path:
    """The library's file.

    :raises NotBuiltError: it is not there
    """
    directory = Path(__file__).resolve().parent
    for suffix in EXTENSION_SUFFIXES:
        if (path := directory / f"_library{suffix}").exists():
            return path
    raise NotBuiltError(
        f"the preload library is not in {directory}: it is built when ptshare is installed, with a C "
        "compiler; install gcc and libc6-dev, then ptshare again"
    )
