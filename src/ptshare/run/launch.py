# SPDX-License-Identifier: MIT
"""Starts a program with the preload library, and watches over it if there is to be a report."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ptshare import preload
from ptshare.run.log import Log
from ptshare.run.sample import Peak, Sampler

__all__ = ["Ended", "Options", "environment", "execute", "watch"]

#: Signals that a user or a service manager sends to the one process that they know.
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Options:
    """What is to share.

    :param min_size: bytes; smaller mappings are left alone
    :param only: patterns, as fnmatch(3), of what /proc/PID/maps calls the file; ``anonymous`` is shared
        anonymous memory, ``sysv`` a System V segment. None: all
    """

    min_size: int
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A program that was watched.

    :param status: exit status as a shell gives it: 128 and the number of the signal that ended it
    """

    status: int
    log: Log
    peak: Peak


def environment(options: Options, base: Mapping[str, str], log: Path | None = None) -> dict[str, str]:
    """``base`` with what the library needs.

    :raises ptshare.preload.NotBuiltError: it was not built
    """
    library = str(preload.library())
    if set(library) & set(": \t\n"):
        raise preload.NotBuiltError(
            f"the loader takes no library from a path with a colon or space in it: {library}; "
            "install ptshare elsewhere"
        )
    libraries = [library, *filter(None, [base.get("LD_PRELOAD")])]
    made = {
        **base,
        "LD_PRELOAD": ":".join(libraries),
        "PTSHARE_MIN_SIZE": str(options.min_size),
        "PTSHARE_ONLY": "\n".join(options.only),
    }
    if log is not None:
        made["PTSHARE_LOG"] = str(log)
    return made


def execute(command: Sequence[str], options: Options) -> NoReturn:
    """Become ``command``.

    :raises OSError: it cannot be executed
    """
    made = environment(options, os.environ)
    # Python ignores these, and exec() keeps that: the program would not die of a closed pipe.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _IGNORED_BY_PYTHON}
    try:
        os.execvpe(command[0], list(command), made)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(command: Sequence[str], options: Options) -> Ended:
    """Run ``command`` to its end, and take down what it and its children share.

    :raises OSError: it cannot be executed
    """
    with _log_file() as path:
        sampler = Sampler(path)
        made = environment(options, os.environ, path)
        with _forwarded() as forward_to:
            process = subprocess.Popen(list(command), env=made, close_fds=False)
            forward_to(process)
            while True:
                try:
                    status = process.wait(_SAMPLE_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    sampler.sample()
        sampler.sample()
        log = Log.read(path)
        return Ended(status if status >= 0 else 128 - status, log, sampler.peak)


@contextmanager
def _log_file() -> Iterator[Path]:
    """A file that processes may write to that have given up their rights: its name is its secret."""
    with tempfile.TemporaryDirectory(prefix="ptshare-run-") as directory:
        os.chmod(directory, 0o711)
        path = Path(directory, os.urandom(16).hex())
        path.touch()
        path.chmod(0o666)
        yield path


@contextmanager
def _forwarded() -> Iterator[Callable[["subprocess.Popen[bytes]"], None]]:
    """Signals to this process go to the program, which is told when it is there: those that came before are
    kept for it. Those of a terminal's keys it has got already.
    """
    program: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if number in (signal.SIGINT, signal.SIGQUIT) and _has_terminal():
            return
        if program is None:
            early.append(number)
        else:
            program.send_signal(number)

    def forward_to(process: "subprocess.Popen[bytes]") -> None:
        nonlocal program
        program = process
        while early:
            process.send_signal(early.pop(0))

    # What is ignored, by nohup say, the program is to ignore as well.
    listened = [number for number in _FORWARDED if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in listened}
    try:
        yield forward_to
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _has_terminal() -> bool:
    """This process is in the foreground of its terminal, and so is the program."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
