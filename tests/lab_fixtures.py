# SPDX-License-Identifier: MIT
"""For tests of the lab: a cache of their own, and a PATH with nothing in it but what the test puts there."""

from pathlib import Path

import pytest


@pytest.fixture
def cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Never the user's own cache."""
    path = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path / "ptshare"


class FakePath:
    """A directory that is all of PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def add(self, name: str, script: str) -> None:
        """A command made of shell."""
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def link(self, *names: str) -> None:
        """Commands of this machine."""
        for name in names:
            origin = next(Path(d, name) for d in ("/usr/bin", "/bin", "/usr/sbin") if Path(d, name).exists())
            (self.directory / name).symlink_to(origin)


@pytest.fixture
def fake_path(tmp_path: Path, cache_directory: Path, monkeypatch: pytest.MonkeyPatch) -> FakePath:
    path = FakePath(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(path.directory))
    return path


@pytest.fixture
def kernel(tmp_path: Path, cache_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel/ directory with one configuration."""
    path = tmp_path / "kernel"
    for name in ("config", "patches", "src"):
        (path / name).mkdir(parents=True)
    (path / "config/base.config").write_text("CONFIG_SMP=y\n# CONFIG_IPV6 is not set\n")
    monkeypatch.setenv("PTSHARE_KERNEL_DIR", str(path))
    return path
