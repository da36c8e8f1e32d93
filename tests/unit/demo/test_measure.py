# SPDX-License-Identifier: MIT
"""Ordinary page tables, measured on this kernel; shared ones are measured in tests/guest/test_demo.py."""

import os

import pytest

from descriptors import descriptors
from ptshare.demo.errors import ProcessFailedError
from ptshare.demo.files import Target, memfd
from ptshare.demo.measure import measure
from ptshare.demo.proof import one_set_kib
from ptshare.support import granule

SIZE = 32 << 20


def test_each_process_has_tables_of_its_own_for_all_of_the_file() -> None:
    with memfd(SIZE) as target:
        run = measure(target, "ordinary", 3)
    assert (run.filesystem, run.method, run.size, run.processes) == ("memfd", "ordinary", SIZE, 3)
    tables = SIZE // granule() * 4
    assert all(tables <= own <= one_set_kib(SIZE, granule()) + 32 for own in run.own_kib)
    assert all(SIZE // granule() <= faults <= SIZE // 4096 + 100 for faults in run.faults)
    assert run.mean_seconds > 0
    assert (run.protection, run.survival, run.aftermath) == (None, None, None)


def test_a_process_that_cannot_map_is_told() -> None:
    before = descriptors()
    target = Target("none", "/proc/none", SIZE, writable=False)
    with pytest.raises(ProcessFailedError, match="'map_and_touch': FileNotFoundError"):
        measure(target, "ordinary", 2)
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_shared_is_refused_where_the_kernel_cannot() -> None:
    with memfd(SIZE) as target, pytest.raises(ProcessFailedError, match="page tables cannot be shared"):
        measure(target, "shared", 2)
