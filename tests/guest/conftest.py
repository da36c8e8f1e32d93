# SPDX-License-Identifier: MIT
"""Fixtures of the guest tests: what is held must be given back, files on each kind of file system, sweeps of
failing allocations.
"""

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import faultinject
import pytest
from faultinject import Injector, Points
from settings import setting
from sweeping import Scene, objects

from descriptors import descriptors
from held import settles, sharing
from ptshare.counters import SharingCounters


@pytest.fixture(autouse=True)
def idle() -> Iterator[SharingCounters]:
    """What the kernel holds for sharing is after each test what it was before; the test gets what it was."""
    before = sharing()
    opened = descriptors()
    yield before
    gc.collect()
    assert descriptors() == opened
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
    # Nothing is written back unless a test asks for it: not every five seconds, nor because next to nothing
    # may be dirty of a disk that is new. What is written back is clean, and the next store takes a fault.
    with setting(Path("/proc/sys/vm/dirty_writeback_centisecs"), "0"):
        for directory in _mounted(tmp_path / "ext4", "-o", "loop", str(image)):
            device = directory.stat().st_dev
            share = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/min_ratio")
            with setting(share, "50"):
                yield directory


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


@pytest.fixture
def swap() -> Iterator[Path]:
    """The lab's scratch disk as swap space."""
    disk = Path("/dev/vda")
    subprocess.run(["mkswap", "--quiet", str(disk)], check=True)
    subprocess.run(["swapon", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["swapoff", str(disk)], check=True)


@pytest.fixture(scope="session")
def tally(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that counts up in each page of a file: tests/guest/tally.c."""
    program = tmp_path_factory.mktemp("tally") / "tally"
    source = Path(__file__).with_name("tally.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", str(program), str(source)], check=True)
    return program


@pytest.fixture(params=["tmpfs", "ext4", "overlay"])
def directory(request: pytest.FixtureRequest) -> Path:
    """An empty directory on each kind of file system in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    with faultinject.injector(tmp_path_factory.mktemp("failnth")) as made:
        yield made


@pytest.fixture
def one_processor() -> Iterator[None]:
    """What a processor is still to mlock when the process has left for another, the kernel can count twice.

    Pages stay locked then that nobody has locked, those of ordinary mappings, too.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def sweep(injector: Injector, request: pytest.FixtureRequest) -> Callable[..., Points]:
    """Sweeps after which the kernel has no mapping, file or table more than before."""

    def run(scene: Scene, fails: bool = True, processes: bool = False) -> Points:
        with scene() as attempt:  # what is made once for all is there afterwards
            outcome = injector.call(*attempt.call)
            assert not outcome.error
            attempt.done(outcome.value)
        before = objects()
        points = injector.sweep(scene)
        print(f"{request.node.name}: {points}")
        assert not fails or points.failed
        if processes:
            # A CPU that has run one keeps its mm until it runs another.
            before["mm_struct"] += os.cpu_count() or 1
        # Fewer: RCU may free by now what was given back long before.
        assert settles(lambda: all(now <= before[name] for name, now in objects().items()), True), (
            f"{before} before, {objects()} after"
        )
        return points

    return run
