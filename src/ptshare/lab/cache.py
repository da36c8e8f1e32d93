# SPDX-License-Identifier: MIT
"""The lab's directory in the user's cache: sources, trees, images, consoles."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ptshare.lab.errors import LabError

__all__ = ["directory", "lock", "need_space", "new_run_directory", "prune"]

_RUNS_KEPT = 30


def directory(name: str = "") -> Path:
    """``$XDG_CACHE_HOME/ptshare/NAME``, made if it is not there.

    :raises LabError: it cannot be made
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = Path(base) / "ptshare" / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot make the cache {path}: {error.strerror}; set XDG_CACHE_HOME") from None
    return path


def need_space(path: Path, needed: int, purpose: str) -> None:
    """Check that the file system of ``path`` has ``needed`` bytes free.

    :raises LabError: it has not
    """
    free = shutil.disk_usage(path).free
    if free < needed:
        raise LabError(
            f"not enough disk space in {path} to {purpose}: {free >> 20} MiB free, "
            f"{needed >> 20} MiB needed; free some, or set XDG_CACHE_HOME to a directory on a larger disk"
        )


@contextlib.contextmanager
def lock(name: str, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock ``name``; others wait. The kernel drops it when the process ends, however it ends.

    :param waiting: called once if somebody else holds it
    """
    with (directory() / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prune(path: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest entries of a directory, by modification time."""
    entries = []
    for entry in path.iterdir():
        with contextlib.suppress(FileNotFoundError):  # somebody else prunes, too
            entries.append((entry.stat().st_mtime, entry))
    for _, entry in sorted(entries, reverse=True)[keep:]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def new_run_directory() -> Path:
    """A new directory for one guest's console; the oldest ones are deleted."""
    runs = directory("runs")
    prune(runs, _RUNS_KEPT - 1)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=runs))
