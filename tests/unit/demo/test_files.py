# SPDX-License-Identifier: MIT
"""The files that need no mount; the others are made in tests/guest/test_demo.py."""

import os
from pathlib import Path

import pytest

from descriptors import descriptors
from ptshare.demo import files
from ptshare.demo.errors import CannotRunError


def test_memfd() -> None:
    before = descriptors()
    with files.memfd(5 << 20) as target:
        assert (target.filesystem, target.size, target.writable) == ("memfd", 5 << 20, True)
        assert isinstance(target.file, int)
        assert os.fstat(target.file).st_size == 5 << 20
        assert os.fstat(target.file).st_blocks * 512 == 5 << 20
    assert descriptors() == before


def test_own_file(tmp_path: Path) -> None:
    path = tmp_path / "own"
    path.write_bytes(b"x" * 10_000)
    with files.own_file(path) as target:
        assert (target.file, target.size, target.writable) == (str(path), 10_000, False)


def test_the_file_system_is_named() -> None:
    assert files.filesystem(Path("/proc/self/status")) == "proc"
    assert files.filesystem(Path("/dev/shm")) == "tmpfs"


def test_own_files_that_cannot_be_mapped(tmp_path: Path) -> None:
    empty, fifo = tmp_path / "empty", tmp_path / "fifo"
    empty.touch()
    os.mkfifo(fifo)
    before = descriptors()
    for path, words in [
        (empty, "is empty: there is nothing to map"),
        (fifo, "is no regular file"),
        (tmp_path, "is no regular file"),
        (tmp_path / "none", "cannot be read: No such file or directory"),
    ]:
        with pytest.raises(CannotRunError, match=f"--file {path} {words}"):
            files.own_size(path)
    assert descriptors() == before


def test_a_command_that_fails_is_told() -> None:
    with pytest.raises(CannotRunError, match=r"umount failed \(\d+\): umount: /proc/none: no mount point"):
        files.command(["umount", "/proc/none"])
    with pytest.raises(CannotRunError, match=r"mkfs\.none is not installed"):
        files.command(["mkfs.none"])
