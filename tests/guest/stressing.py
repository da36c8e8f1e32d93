# SPDX-License-Identifier: MIT
"""Runs of ``ptshare stress``, and that they leave nothing."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from held import settles

STRESS = [sys.executable, "-c", "import sys; from ptshare.cli import main; sys.exit(main())", "stress"]


@contextmanager
def nothing_left() -> Iterator[None]:
    """No mount, loop device, swap, control group or scratch file is left."""
    before = _traces()
    yield
    assert settles(_traces, before)


def _traces() -> list[object]:
    return [
        Path("/proc/self/mountinfo").read_text(),
        [path for path in Path("/sys/block").glob("loop*") if (path / "loop/backing_file").exists()],
        Path("/proc/swaps").read_text(),
        list(Path("/sys/fs/cgroup").glob("ptshare-stress-*")),
        list(Path(tempfile.gettempdir()).glob("ptshare-stress-*")),
    ]
