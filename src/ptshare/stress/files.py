# SPDX-License-Identifier: MIT
"""The files of a run."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ptshare.demo import files
from ptshare.demo.errors import CannotRunError
from ptshare.stress.content import CONSTANT, content
from ptshare.syscalls import GRANULE, PAGE

__all__ = ["FILE_PAGES", "GUARDED_HALF", "TAIL_PAGES", "File", "Files", "make_files"]

Role = Literal["pages", "storm", "guard"]

_GRANULES = 4
_GUARD_GRANULES = 2
FILE_PAGES = _GRANULES * GRANULE // PAGE

#: Pages at the end of a file that truncation can take away.
TAIL_PAGES = 128

#: How much of a page of a guarded file is always the same; the rest is written to.
GUARDED_HALF = PAGE // 2

_EXT4_BYTES = 96 << 20


@dataclass(frozen=True)
class File:
    """A file of a run.

    :param number: from 0
    :param name: for people
    :param role: ``pages``: each page has versions, and a lock. ``storm``: nobody waits for anybody, pages are
        always the same or zeros. ``guard``: for the game with protection
    :param path: where it is, ``None``: it is a memfd
    :param fd: of a memfd, else -1
    :param huge: it has huge pages. One of them that cannot be split when it is truncated stays whole, and
        then zeros can be read beyond the end of the file, and be written there, with any page tables
    """

    number: int
    name: str
    role: Role
    path: str | None
    fd: int
    granules: int
    huge: bool = False

    @property
    def size(self) -> int:
        """Bytes, when nothing is truncated."""
        return self.granules * GRANULE

    @property
    def pages(self) -> int:
        """Pages, when nothing is truncated."""
        return self.size // PAGE

    @property
    def tail(self) -> int:
        """The first page that truncation can take away."""
        return self.pages - (TAIL_PAGES if self.role == "pages" else 0)

    def open(self, write: bool) -> int:
        """A new open file of it."""
        path = f"/proc/self/fd/{self.fd}" if self.path is None else self.path
        return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)

    def as_dict(self) -> dict[str, Any]:
        """For another process that inherits the descriptors."""
        return asdict(self)


class Files:
    """The files, and what is to be known about them.

    :param mounted: image and place of the ext4 that some of them are on
    :param unused: what is not there, and why
    """

    def __init__(self) -> None:
        self.all: list[File] = []
        self.mounted: tuple[Path, Path] | None = None
        self.unused: list[str] = []

    def add(self, name: str, role: Role, where: Path | None, granules: int = _GRANULES) -> File:
        """Make a file, in the directory ``where``; ``None``: a memfd."""
        number = len(self.all)
        if where is None:
            path, fd = None, os.memfd_create(f"ptshare-stress-{role}")
        else:
            path, fd = str(where / f"{role}-{number}"), -1
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        file = File(number, name, role, path, fd, granules, huge="huge" in name)
        os.truncate(fd if path is None else path, file.size)
        self.all.append(file)
        return file

    def remount(self) -> list[File]:
        """Unmount the ext4 and mount it again, so that its files are read from the disk.

        :returns: its files
        :raises CannotRunError: something still holds it
        """
        if self.mounted is None:
            return []
        image, place = self.mounted
        files.command(["umount", str(place)])
        files.command(["mount", "-t", "ext4", "-o", "loop", str(image), str(place)])
        return [file for file in self.all if file.path and Path(file.path).parent == place]

    def of(self, role: Role) -> list[File]:
        """Those of a role."""
        return [file for file in self.all if file.role == role]


def _fill_guarded(file: File, run: int) -> None:
    """Give every page its lasting half."""
    for page in range(file.pages):
        os.pwrite(file.fd, content(file.number, page, CONSTANT, run)[:GUARDED_HALF], page * PAGE)


@contextmanager
def make_files(run: int, guarded: bool, root: bool) -> Iterator[Files]:
    """The files of a run, on as many kinds of file system as can be had here.

    :param run: the number of the run
    :param guarded: with a file for the game with protection
    :param root: file systems may be mounted
    """
    made = Files()
    with ExitStack() as stack:
        scratch = stack.enter_context(files.scratch("ptshare-stress-"))
        made.add("memfd", "pages", None)
        places = _mounts(stack, scratch, made) if root else _plain(stack, made)
        for name, place in places:
            made.add(name, "pages", place)
        for name, place in places or [("memfd", None)]:
            made.add(name, "storm", place)
        if guarded:
            _fill_guarded(made.add("memfd", "guard", None, _GUARD_GRANULES), run)
        try:
            yield made
        finally:
            for file in made.all:
                if file.fd >= 0:
                    os.close(file.fd)


def _mounts(stack: ExitStack, scratch: Path, made: Files) -> list[tuple[str, Path | None]]:
    """File systems of our own."""
    places: list[tuple[str, Path | None]] = []
    for name, options in (("tmpfs", "huge=never"), ("tmpfs with huge pages", "huge=always")):
        directory = scratch / name.replace(" ", "-")
        directory.mkdir()
        try:
            place = stack.enter_context(
                files.mounted(
                    ["-t", "tmpfs", "-o", f"size=64M,mode=700,{options}", "ptshare-stress"], directory
                )
            )
        except CannotRunError as error:
            made.unused.append(f"{name}: {error}")
            continue
        places.append((name, place))
    image = scratch / "image"
    try:
        with image.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _EXT4_BYTES)
        files.make_ext4(image)
        directory = scratch / "ext4"
        directory.mkdir()
        place = stack.enter_context(files.mounted(["-t", "ext4", "-o", "loop", str(image)], directory))
        places.append(("ext4", place))
        made.mounted = image, place
    except (CannotRunError, OSError) as error:
        made.unused.append(f"ext4: {error}")
    return places


def _plain(stack: ExitStack, made: Files) -> list[tuple[str, Path | None]]:
    """File systems that are there."""
    made.unused.append("file systems of our own: only root can mount them")
    places: dict[str, Path | None] = {}
    for directory in ("/dev/shm", tempfile.gettempdir(), os.getcwd()):
        with contextlib.suppress(OSError):
            place = Path(tempfile.mkdtemp(prefix="ptshare-stress-", dir=directory))
            stack.callback(_remove, place)
            kind = files.filesystem(place)
            if kind not in places and kind in ("tmpfs", "ext4", "xfs", "btrfs", "overlay"):
                places[kind] = place
    return list(places.items())


def _remove(place: Path) -> None:
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
