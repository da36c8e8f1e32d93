# SPDX-License-Identifier: MIT
"""Debian's packages, by apt: which ones a package needs, downloaded and unpacked without being installed."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ptshare.lab.errors import LabError
from ptshare.lab.process import need_tools

__all__ = ["Failure", "closure", "download", "need_apt", "version", "with_fresh_lists"]

T = TypeVar("T")

#: A line of a simulated installation, with the version that stands to be installed.
_INST = re.compile(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", re.M)


class Failure(Exception):
    """apt could not; the text is its first error. Old lists are a frequent cause:
    :func:`with_fresh_lists`."""


def need_apt(purpose: str) -> None:
    """Check that there is an apt.

    :param purpose: what it is for, as the end of a sentence
    :raises LabError: there is none
    """
    if shutil.which("apt-get") is None:
        raise LabError(f"no apt-get here: {purpose}")
    need_tools("dpkg-deb")


def _run(*arguments: str, cwd: Path | None = None) -> str:
    result = subprocess.run(
        ["apt-get", "-q", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if result.returncode:
        errors = [line[3:] for line in result.stderr.splitlines() if line.startswith("E: ")]
        raise Failure(errors[0] if errors else "no message")
    return result.stdout


def _update() -> None:
    """Refresh apt's lists, if this user may: old lists name point releases that are no longer served."""
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if prefix and shutil.which("sudo") is None:
        return
    subprocess.run([*prefix, "apt-get", "-q", "update"], stdin=subprocess.DEVNULL, capture_output=True)


def with_fresh_lists(action: Callable[[], T]) -> T:
    """What ``action`` returns. If it fails it is tried again after apt's lists were refreshed.

    :raises Failure: it failed twice
    """
    try:
        return action()
    except Failure:
        _update()
        return action()


def download(directory: Path, *names: str) -> list[Path]:
    """Download packages, each given as ``NAME`` for the newest version or as ``NAME=VERSION``.

    :param directory: where they appear, all or none
    :return: the .debs, by name
    :raises Failure: apt could not get one of them
    """
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        _run("download", *names, cwd=Path(temporary))
        debs = sorted(Path(temporary).glob("*.deb"))
        return [deb.replace(directory / deb.name) for deb in debs]


def closure(*names: str) -> dict[str, str]:
    """What these packages need, themselves included, on a Debian with nothing but its essential packages.

    What this machine has installed plays no part. Recommended packages are left out.

    :return: name -> version
    :raises Failure: apt does not know one of them
    """
    with tempfile.NamedTemporaryFile(prefix="ptshare-status-") as nothing:
        # apt reads it under another user's name, where it can.
        os.chmod(nothing.name, 0o644)

        def needed(wanted: Sequence[str]) -> dict[str, str]:
            simulate = ["-s", "-o", f"Dir::State::status={nothing.name}", "--no-install-recommends"]
            return dict(_INST.findall(_run(*simulate, "install", *wanted)))

        everywhere = needed(["?essential"])
        return {name: number for name, number in needed(names).items() if name not in everywhere}


def version(deb: Path) -> str:
    """The version that a .deb says it is."""
    result = subprocess.run(
        ["dpkg-deb", "-f", str(deb), "Version"], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()
