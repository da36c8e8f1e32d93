# SPDX-License-Identifier: MIT
"""For tests of the library on this machine's kernel: files to map, and nothing left of them."""

import gc
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing import forkserver, resource_sharer, resource_tracker
from pathlib import Path

import pytest

from descriptors import descriptors
from ptshare import abi
from ptshare.support import granule

GRANULE = granule()


@pytest.fixture
def flag_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes the flag: 0 stands in for it, which every kernel takes and maps ordinarily."""
    monkeypatch.setattr(abi, "MAP_SHARED_PT", 0)


@pytest.fixture
def nothing_leaked() -> Iterator[None]:
    """No descriptor, no mapping of a test's file is left."""
    before = descriptors()
    yield
    gc.collect()
    # multiprocessing's thread that sends descriptors may not have closed its end yet.
    deadline = time.monotonic() + 20
    while not descriptors().items() <= before.items() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert descriptors().items() <= before.items()
    maps = Path("/proc/self/maps").read_text()
    assert "ptshare-test" not in maps
    assert "/memfd:ptshare" not in maps


@pytest.fixture(scope="session")
def helpers() -> None:
    """What multiprocessing starts once, and then keeps descriptors of."""
    multiprocessing.set_forkserver_preload(["ptshare"])
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    os.close(resource_sharer.DupFd(0).detach())


def make(directory: Path, size: int) -> Path:
    """A file of ``size`` bytes, none like the next."""
    path = directory / "ptshare-test.data"
    path.write_bytes(bytes(i % 251 for i in range(size)) if size < 10_000 else os.urandom(size))
    return path
