# SPDX-License-Identifier: MIT
"""Programs of Debian's for the guest and for tests, unpacked in the cache: this machine does not get them
installed.

On the host :func:`fetch` gets them by apt with all that they need; in the guest :func:`lay_over_usr` has
them stand in /usr, as if they were installed there. No package's scripts run, so nothing is configured
and nothing starts.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ptshare.lab import apt, cache
from ptshare.lab.errors import LabError
from ptshare.lab.process import need_tools

__all__ = ["cached", "fetch", "lay_over_usr"]

#: For each package: the .deb and what is in it. PostgreSQL and Redis with all that they need take 400 MiB.
_BYTES_A_PACKAGE = 10 << 20

#: Directories that are links to their like in /usr on every Debian since 12, and in old packages are not.
_MERGED = ("bin", "lib", "lib64", "sbin")


def _directory(names: tuple[str, ...]) -> Path:
    return cache.directory("packages") / "+".join(sorted(names))


def cached(*names: str) -> Path:
    """Where these packages stand unpacked: a directory with ``usr`` in it. Works in the guest, too.

    :raises LabError: they were not fetched
    """
    directory = _directory(names)
    link = directory / "current"
    if not (link / "usr").is_dir():
        raise LabError(
            f"{', '.join(names)}: not in {directory}; these packages are fetched on the host, "
            "when the tests or the measurement that need them are started there"
        )
    return link.resolve()


def fetch(*names: str, say: Callable[[str], object], refresh: bool = False) -> Path:
    """Get packages and all that they need from Debian, by apt, unpacked. What was fetched once is kept.

    :param say: called with a line that tells what is fetched, if anything is
    :param refresh: ask apt for newer versions
    :return: as :func:`cached`
    :raises LabError: no apt, no such package, or the disk is full
    """
    directory = _directory(names)
    with cache.lock("packages"):
        if not refresh and (directory / "current/usr").is_dir():
            return cached(*names)
        directory.mkdir(exist_ok=True)
        _fetch(directory, names, say)
    return cached(*names)


def _fetch(directory: Path, names: tuple[str, ...], say: Callable[[str], object]) -> None:
    apt.need_apt(f"{', '.join(names)} of Debian are wanted here")
    need_tools("tar", "xz")

    def download() -> Path | None:
        needed = apt.closure(*names)
        key = hashlib.sha256("\n".join(f"{name}={needed[name]}" for name in sorted(needed)).encode())
        target = directory / key.hexdigest()[:16]
        if target.is_dir():
            _make_current(target)
            return None
        cache.need_space(directory, len(needed) * _BYTES_A_PACKAGE, f"unpack {len(needed)} packages")
        say(_summary(names, needed))
        debs.mkdir(exist_ok=True)
        apt.download(debs, *(f"{name}={number}" for name, number in needed.items()))
        return target

    with tempfile.TemporaryDirectory(prefix="new-", dir=directory) as temporary:
        debs = Path(temporary, "debs")
        try:
            target = apt.with_fresh_lists(download)
        except apt.Failure as error:
            raise LabError(
                f"apt cannot get {', '.join(names)}: {error}; "
                "run apt-get update as root, and check that apt's sources are those of Debian 12"
            ) from None
        if target is None:
            return
        root = Path(temporary, "root")
        for name in _MERGED:
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        for deb in sorted(debs.glob("*.deb")):
            _unpack(deb, root)
        root.rename(target)
    _make_current(target)
    for other in directory.iterdir():
        if other.name not in ("current", target.name):
            shutil.rmtree(other, ignore_errors=True)


def _summary(names: tuple[str, ...], needed: dict[str, str]) -> str:
    wanted = ", ".join(f"{name} {needed.get(name, '')}".strip() for name in names)
    others = len(needed.keys() - set(names))
    return f"fetching from Debian, into the cache: {wanted}, and {others} packages that they need"


def _unpack(deb: Path, root: Path) -> None:
    """As dpkg-deb -x does, but through the links of a merged /usr, which that replaces."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as source:
        tar = ["tar", "-C", str(root), "-x", "--keep-directory-symlink", "--no-same-owner"]
        result = subprocess.run(tar, stdin=source.stdout, capture_output=True, text=True)
    if source.returncode or result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabError(f"cannot unpack {deb.name}: {last}; check the space left in {root.parent.parent}")


def _make_current(target: Path) -> None:
    """Of two who ask at a time, each finds a whole directory."""
    link = target.with_name("current.new")
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(target.with_name("current"))


def lay_over_usr(unpacked: Path) -> None:
    """In the guest: have what is in ``unpacked`` stand in /usr, over what is there, until the guest ends.

    :raises LabError: this is no guest of the lab's
    :raises OSError: as mount(2)
    """
    if not os.environ.get("PTSHARE_LAB"):
        raise LabError("nothing is laid over /usr outside the lab's guest; run this by ptshare lab run")
    layer = str(unpacked / "usr")
    for special in "\\:,":  # overlayfs splits its options there
        layer = layer.replace(special, f"\\{special}")
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"lowerdir={layer}:/usr,xino=off"
    if libc.mount(b"overlay", b"/usr", b"overlay", ctypes.c_ulong(1), os.fsencode(options)):
        number = ctypes.get_errno()
        raise OSError(number, f"mount overlay on /usr: {os.strerror(number)}")
