# SPDX-License-Identifier: MIT
"""CPython's own tests of ``mmap`` and ``SharedMemory``, run on this package's classes.

A script, for the Python whose tests they are: ``python cpython_tests.py mmap|shared_memory PAGE_TABLES``
prints as JSON what became of each test, and how many mappings of ours they made.
"""

import io
import json
import mmap
import sys
import traceback
import types
import unittest
from multiprocessing import shared_memory
from typing import Any

from test import _test_multiprocessing, test_mmap

import ptshare
from ptshare import shared_memory as ours
from ptshare.report import Asked
from ptshare.support import granule

#: Test -> why it is not run.
LEFT_OUT = {
    "mmap": {
        "test_repr": "a mapping of ours says more: the file's name, the mode, the page tables",
        **dict.fromkeys(
            ("test_resize_down_anonymous_mapping", "test_resize_up_anonymous_mapping"),
            "they want an error; anonymous memory of ours is a file and can be resized, with ordinary tables",
        ),
        **dict.fromkeys(
            (
                "test_access_violations",
                "test_crasher_on_windows",
                "test_invalid_descriptor",
                "test_no_trackfd_parameter_on_windows",
                "test_resize_down_when_mapped_to_pagefile",
                "test_resize_fails_if_mapping_held_elsewhere",
                "test_resize_succeeds_with_error_for_second_named_mapping",
                "test_resize_up_when_mapped_to_pagefile",
                "test_sizeof",
                "test_tagname",
            ),
            "CPython itself runs it on Windows only",
        ),
    },
    "shared_memory": {},
}

#: The same with shared page tables.
LEFT_OUT_SHARED = dict.fromkeys(
    ("test_access_parameter", "test_basic", "test_resize_past_pos"),
    "they resize; a mapping with shared page tables keeps its size",
)

made = 0

#: What the classes here ask for.
asked: Asked = "auto"


class SharedMemory(ptshare.SharedMemory):
    """``multiprocessing.shared_memory.SharedMemory``'s parameters."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        global made
        super().__init__(*arguments, page_tables=keywords.pop("page_tables", asked), **keywords)
        made += 1


class Substitute(mmap.mmap):
    """``mmap.mmap``'s parameters, and a ``ptshare.Mapping`` wherever they ask for what one is."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
        """A mapping."""
        global made
        wanted = _as_mapping(*arguments, **keywords) if cls is Substitute else None
        if wanted is None:
            return super().__new__(cls, *arguments, **keywords)
        fd, length, mode, offset = wanted
        file = None if fd == -1 else fd
        mapping = ptshare.Mapping(file, mode, offset=offset, length=length, page_tables=asked)
        made += 1
        return mapping


def _as_mapping(
    fileno: Any,
    length: Any,
    flags: Any = mmap.MAP_SHARED,
    prot: Any = mmap.PROT_READ | mmap.PROT_WRITE,
    access: Any = mmap.ACCESS_DEFAULT,
    offset: Any = 0,
    trackfd: Any = True,
) -> Any:
    """How to make a mapping of it; ``None``: it is none, or an error."""
    modes = {
        (mmap.ACCESS_DEFAULT, mmap.PROT_READ | mmap.PROT_WRITE): "r+",
        (mmap.ACCESS_DEFAULT, mmap.PROT_READ): "r",
        (mmap.ACCESS_WRITE, mmap.PROT_READ | mmap.PROT_WRITE): "r+",
        (mmap.ACCESS_READ, mmap.PROT_READ | mmap.PROT_WRITE): "r",
    }
    numbers = all(type(value) is int for value in (fileno, length, flags, prot, access, offset))
    if (
        not numbers
        or (access, prot) not in modes
        or flags & ~mmap.MAP_ANONYMOUS != mmap.MAP_SHARED
        or fileno < -1
        or length < 0
        or offset < 0
        or offset % granule()
        or not trackfd
        or (fileno == -1 and (length == 0 or offset))
    ):
        return None
    return fileno, length or None, modes[access, prot], offset


class Outcomes(unittest.TestResult):
    """Test -> ``passed``, or what was wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, str] = {}

    def addSuccess(self, test: Any) -> None:
        self.of[test._testMethodName] = "passed"

    def addSkip(self, test: Any, reason: str) -> None:
        self.of[getattr(test, "_testMethodName", str(test))] = f"skipped: {reason}"

    def addFailure(self, test: Any, err: Any) -> None:
        self.of[getattr(test, "_testMethodName", str(test))] = "".join(traceback.format_exception(*err))

    addError = addFailure

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.addFailure(test, err)


def run(what: str) -> dict[str, Any]:
    """Run the tests of ``mmap`` or ``shared_memory``."""
    if what == "mmap":
        module = types.SimpleNamespace(**{**vars(mmap), "mmap": Substitute})
        test_mmap.mmap = module
        case = test_mmap.MmapTests
    else:
        shared_memory.SharedMemory = SharedMemory  # type: ignore[misc,assignment]
        # Two tests say which names come next.
        ours._random_name = lambda: shared_memory._make_filename()  # type: ignore[attr-defined]
        case = globals()["WithProcessesTestSharedMemory"]
    outcomes = Outcomes()
    for test in unittest.defaultTestLoader.loadTestsFromTestCase(case):
        name = test._testMethodName  # type: ignore[union-attr]
        if name not in LEFT_OUT[what] and not (asked == "shared" and name in LEFT_OUT_SHARED):
            test.run(outcomes)
    return {"outcomes": outcomes.of, "mappings": made}


# Processes that the tests start find the classes here: their main module is this one.
_test_multiprocessing.install_tests_in_module_dict(globals(), "spawn", only_type="processes")

if __name__ == "__main__":
    output, sys.stdout = sys.stdout, io.StringIO()
    asked = sys.argv[2]  # type: ignore[assignment]
    setUpModule()  # type: ignore[name-defined]  # noqa: F821  # of the tests just installed
    results = run(sys.argv[1])
    json.dump(results, output, indent=1)
