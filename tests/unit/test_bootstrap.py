# SPDX-License-Identifier: MIT
"""./demo and ./test on a machine where things are missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab_fixtures import FakePath

ROOT = Path(__file__).parents[2]
BASICS = ("bash", "env", "sort", "dirname", "sha256sum", "cat", "cut")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    path = tmp_path / "checkout"
    for directory in ("scripts", "src/ptshare/preload"):
        (path / directory).mkdir(parents=True)
    for name in ("test", "demo", "scripts/bootstrap.sh", "pyproject.toml", "src/ptshare/preload/calls.c"):
        shutil.copy(ROOT / name, path / name)
    return path


def run(checkout: Path, fake_path: FakePath) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(fake_path.directory), "LC_ALL": "C"}
    return subprocess.run(
        ["/bin/bash", "./test", "unit"],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_is_missing_is_installed_and_said(checkout: Path, fake_path: FakePath, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_path.link(*BASICS)
    fake_path.add("python3", 'case "$*" in *ensurepip*) exit 1;; *venv*) exit 1;; esac; exit 0')
    fake_path.add("apt-get", f'echo "$@" >> {log}')
    result = run(checkout, fake_path)
    assert "Installing from Debian: " in result.stdout
    update, install = log.read_text().splitlines()
    assert update == "-q update"
    for package in ("qemu-system-x86", "gcc", "flex", "bison", "python3-venv"):
        assert f" {package}" in install
        assert package in result.stdout
    assert " python3 " not in install
    assert result.returncode == 2
    assert "python3 -m venv failed" in result.stderr


def test_neither_apt_nor_the_tools(checkout: Path, fake_path: FakePath) -> None:
    fake_path.link(*BASICS)
    result = run(checkout, fake_path)
    assert result.returncode == 2
    assert "this is no Debian" in result.stderr


def test_an_old_python(checkout: Path, fake_path: FakePath) -> None:
    fake_path.link(*BASICS)
    fake_path.add("apt-get", "exit 0")
    fake_path.add("sudo", '"$@"')
    fake_path.add(
        "python3", 'case "$*" in *version_info*) exit 1;; --version) echo Python 3.9.2;; esac; exit 0'
    )
    result = run(checkout, fake_path)
    assert result.returncode == 2
    assert "python3 is Python 3.9.2; Python 3.11 or newer is needed" in result.stderr
