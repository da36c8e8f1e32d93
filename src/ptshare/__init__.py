# SPDX-License-Identifier: MIT
"""Page tables shared between processes (MAP_SHARED_PT)."""

from typing import TYPE_CHECKING

from ptshare.mapping import Mapping
from ptshare.report import PageTables, Report
from ptshare.support import Support, UnsupportedError, probe

if TYPE_CHECKING:
    from ptshare.arrays import memmap
    from ptshare.shared_memory import SharedMemory

__all__ = [
    "Mapping",
    "PageTables",
    "Report",
    "SharedMemory",
    "Support",
    "UnsupportedError",
    "memmap",
    "probe",
]

#: Name -> module, imported when first used: they need numpy, or more of the standard library.
_LATER = {"SharedMemory": "shared_memory", "memmap": "arrays"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
