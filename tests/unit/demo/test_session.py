# SPDX-License-Identifier: MIT
"""May the demo run here?"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ptshare import Support, abi, counters
from ptshare.demo import session
from ptshare.demo.errors import CannotRunError


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with the feature, root, and 8 GiB of memory."""
    monkeypatch.setattr(session, "probe", lambda: Support(supported=True, granule=2 << 20, reason=None))
    monkeypatch.setattr(abi, "MAP_SHARED_PT", 0)  # a flag that every kernel takes
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(counters, "mem_available_kib", lambda: 8 << 20)


def test_a_kernel_without_the_feature() -> None:
    with pytest.raises(
        CannotRunError, match=r"this kernel does not have MAP_SHARED_PT; \./demo boots a kernel that can"
    ):
        session.check(1 << 30, 64, None)


@pytest.mark.usefixtures("able")
def test_it_may(tmp_path: Path) -> None:
    support, size = session.check(1 << 30, 64, None)
    assert (support.granule, size) == (2 << 20, 1 << 30)
    own = tmp_path / "own"
    with own.open("wb") as file:
        file.truncate(100 << 20)
    assert session.check(1 << 30, 64, own)[1] == 100 << 20


@pytest.mark.usefixtures("able")
def test_it_may_not(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"x" * 5000)
    checks: list[tuple[Callable[[], object], str]] = [
        (lambda: session.check(8 << 30, 64, None), "need about .* of memory, 8 GiB are available"),
        (lambda: session.check(1 << 30, 5000, None), "use a smaller --size or fewer --processes"),
        (
            lambda: session.check(1 << 20, 64, None),
            "1 MiB are too few to tell tables apart: map 64 MiB at least",
        ),
        (lambda: session.check(1 << 30, 64, small), "4.9 KiB are too few"),
        (lambda: session.check(1 << 30, 64, tmp_path / "none"), "cannot be read"),
        (
            lambda: session.check(1 << 30, 64, Path("/sys/devices/system/cpu/online")),
            "cannot be mapped: No such",
        ),
    ]
    for check, words in checks:
        with pytest.raises(CannotRunError, match=words) as caught:
            check()
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("able")
def test_mounting_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotRunError, match="needs root"):
        session.check(1 << 30, 64, None)


def test_the_defaults_fit_into_the_guest() -> None:
    assert session.needed_bytes(1 << 30, 64) < 2 << 30
