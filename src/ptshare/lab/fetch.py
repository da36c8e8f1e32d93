# SPDX-License-Identifier: MIT
"""Debian's kernel source, by apt."""

import contextlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ptshare.lab import apt, cache
from ptshare.lab.errors import LabError
from ptshare.lab.process import lines_of, need_tools
from ptshare.lab.progress import Callback, Progress, Tracker

__all__ = ["PACKAGE", "Source", "fetch"]

#: Debian's package. Its archive serves only the newest point release.
PACKAGE = "linux-source-6.12"

_DOWNLOAD_BYTES = 200 << 20
_TREE_BYTES = 2200 << 20
#: The archive's size in steps of tar's checkpoints: 1,000 records of 10 KiB each.
_CHECKPOINTS = 152


@dataclass(frozen=True)
class Source:
    """An unpacked kernel source. Nobody may change it.

    :param version: Debian's version of the package, such as ``6.12.117-1~deb12u1``
    """

    path: Path
    version: str

    @property
    def release(self) -> str:
        """The kernel's version, such as ``6.12.117``, from its Makefile."""
        text = (self.path / "Makefile").read_text()
        parts = [
            re.search(rf"^{name} = *(\d+)$", text, re.M) for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")
        ]
        return ".".join(part[1] for part in parts if part)


def _download(directory: Path) -> Path:
    """Download the package's newest version and return the .deb."""
    apt.need_apt(f"the lab takes the kernel's source from Debian's package {PACKAGE}")
    cache.need_space(directory, _DOWNLOAD_BYTES, f"download {PACKAGE}")
    try:
        (deb,) = apt.with_fresh_lists(lambda: apt.download(directory, PACKAGE))
    except apt.Failure as error:
        raise LabError(
            f"apt cannot get {PACKAGE}: {error}; "
            "run apt-get update as root, and check that apt's sources have Debian 12's security updates"
        ) from None
    return deb


def _unpack(deb: Path, target: Path, progress: Callback) -> None:
    """Unpack the package's archive as ``target``, all or nothing."""
    need_tools("dpkg-deb", "tar", "xz")
    cache.need_space(target.parent, _TREE_BYTES, "unpack the kernel's source")
    for stale in target.parent.glob("unpack-*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix="unpack-", dir=target.parent))
    try:
        subprocess.run(["dpkg-deb", "-x", str(deb), str(temporary / "deb")], check=True)
        (archive,) = (temporary / "deb").rglob("linux-source-*.tar.xz")
        tracker = Tracker(progress, "unpack", total=_CHECKPOINTS)
        command = [
            "tar",
            "-I",
            "xz -T0",
            "-xf",
            str(archive),
            "--checkpoint=1000",
            "--checkpoint-action=echo=%u",
        ]
        with (temporary / "log").open("w+") as log:
            with lines_of(command, cwd=temporary, log=log) as (process, lines):
                for _ in lines:
                    tracker.step()
            if process.returncode:
                log.seek(0)
                last = (log.read().strip().splitlines() or ["no message"])[-1]
                raise LabError(
                    f"cannot unpack {archive.name}: {last}; check the space left in {target.parent}"
                )
        (tree,) = temporary.glob("linux-source-*")
        tree.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def current() -> str | None:
    """The version that was fetched, ``None``: none was."""
    with contextlib.suppress(FileNotFoundError):
        return (cache.directory("source") / "current").read_text().strip()
    return None


def fetch(progress: Callback, refresh: bool = False) -> Source:
    """The kernel's source, unpacked in the cache. What was fetched once is kept.

    :param refresh: ask apt for a newer point release
    :raises LabError: no apt, no such package, or the disk is full
    """
    directory = cache.directory("source")
    version = None if refresh else current()
    if version and (directory / version).is_dir():
        return Source(directory / version, version)
    debs = [] if refresh else sorted(directory.glob("*.deb"), key=lambda path: path.stat().st_mtime)
    progress(Progress("fetch"))
    deb = debs[-1] if debs else _download(directory)
    version = apt.version(deb)
    if not (directory / version).is_dir():
        _unpack(deb, directory / version, progress)
    (directory / "current").write_text(f"{version}\n")
    deb.unlink()  # its content stands unpacked
    for other in directory.iterdir():
        if other.is_dir() and other.name != version:
            shutil.rmtree(other, ignore_errors=True)
    return Source(directory / version, version)
