# SPDX-License-Identifier: MIT
"""Child processes that leave nothing running behind them."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ptshare.lab.errors import LabError

__all__ = ["lines_of", "need_tools"]

#: Debian's package for a command or, with a slash, a file.
_PACKAGES = {
    "make": "make",
    "gcc": "gcc",
    "ld": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "patch": "patch",
    "xz": "xz-utils",
    "tar": "tar",
    "dpkg-deb": "dpkg",
    "/usr/include/gelf.h": "libelf-dev",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
}


def need_tools(*tools: str) -> None:
    """Check that commands, or files given with their path, are there.

    :raises LabError: some are not; names the packages to install
    """
    missing = [tool for tool in tools if not (Path(tool).exists() if "/" in tool else shutil.which(tool))]
    if missing:
        packages = " ".join(sorted({_PACKAGES.get(tool, tool) for tool in missing}))
        raise LabError(f"missing: {', '.join(missing)}; install with: apt-get install {packages}")


@contextlib.contextmanager
def lines_of(
    command: Sequence[str],
    *,
    log: IO[str],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """Run a command and yield (process, lines of its output); every line also goes to ``log``.

    The command and its children are ended when the block is left early, and when this process dies, however
    it dies.
    """
    process = subprocess.Popen(
        # SIGTERM lets make end its children and delete half-made targets.
        ["setpriv", "--pdeathsig", "TERM", "--", *command],
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None

    def logged(stream: IO[str]) -> Iterator[str]:
        for line in stream:
            log.write(line)
            yield line
        log.flush()

    try:
        yield process, logged(process.stdout)
        process.wait()
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        process.stdout.close()
