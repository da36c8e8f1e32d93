# SPDX-License-Identifier: MIT
"""Fixtures of the guest tests: what is held must be given back, and files on each kind of file system."""

import gc
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from held import settles, sharing

from ptshare.counters import SharingCounters


@pytest.fixture(autouse=True)
def idle() -> Iterator[SharingCounters]:
    """What the kernel holds for sharing is after each test what it was before; the test gets what it was."""
    before = sharing()
    descriptors = os.listdir("/proc/self/fd")
    yield before
    gc.collect()
    assert os.listdir("/proc/self/fd") == descriptors
    assert settles(sharing, before), f"{before} before, {sharing()} after"


def _mounted(directory: Path, *arguments: str) -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", *arguments, str(directory)], check=True)
    try:
        yield directory
    finally:
        # No -l: a file system that something still pins is a failure.
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    yield from _mounted(tmp_path / "tmpfs", "-t", "tmpfs", "tmpfs")


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    yield from _mounted(tmp_path / "ext4", "-o", "loop", str(image))


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """An overlay whose layers are on tmpfs."""
    layers = _mounted(tmp_path / "layers", "-t", "tmpfs", "tmpfs")
    base = next(layers)
    for name in ("lower", "upper", "work"):
        (base / name).mkdir()
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    yield from _mounted(tmp_path / "overlay", "-t", "overlay", "-o", options, "overlay")
    for _ in layers:
        pass


@pytest.fixture(params=["tmpfs", "ext4", "overlay"])
def directory(request: pytest.FixtureRequest) -> Path:
    """An empty directory on each kind of file system in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found
