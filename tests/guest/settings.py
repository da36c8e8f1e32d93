# SPDX-License-Identifier: MIT
"""What the kernel can be told by files in /proc/sys, /sys and /sys/fs/cgroup."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, text: str) -> None:
    """One write(2); Python's own would tell of an error when the file is closed, or never."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


@contextmanager
def setting(path: Path, value: str) -> Iterator[None]:
    """Another value for a while."""
    before = path.read_text().strip()
    write(path, value)
    try:
        yield
    finally:
        write(path, before)
