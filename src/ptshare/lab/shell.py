# SPDX-License-Identifier: MIT
"""An interactive shell in the guest, on this terminal."""

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from ptshare.lab.errors import LabError
from ptshare.lab.guest import Guest, GuestResult
from ptshare.lab.image import Image

__all__ = ["shell"]


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """The guest's terminal does echo and Ctrl-C; this one only passes them on."""
    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def shell(image: Image, *, memory: str = "4G", cpus: int = 4, cwd: Path | None = None) -> GuestResult:
    """Boot ``image`` and run bash in it until it exits.

    :raises LabError: standard input is no terminal
    """
    if not os.isatty(sys.stdin.fileno()):
        raise LabError("lab shell needs a terminal on standard input; use lab run -- COMMAND in scripts")
    print("lab: booting; leave with exit or Ctrl-D", file=sys.stderr)
    with (
        Guest(
            ["bash", "-i"],
            image=image,
            memory=memory,
            cpus=cpus,
            cwd=cwd,
            terminal=True,
        ) as guest,
        _raw(sys.stdin.fileno()),
    ):
        while guest.running:
            guest.poll(0.5)
    return guest.result()
