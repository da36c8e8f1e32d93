# SPDX-License-Identifier: MIT
"""The files that the demo maps, with all their pages in memory."""

import contextlib
import errno
import mmap
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ptshare import abi
from ptshare.demo import signals
from ptshare.demo.errors import CannotRunError

__all__ = [
    "Target",
    "command",
    "ext4_file",
    "filesystem",
    "make_ext4",
    "memfd",
    "mounted",
    "own_file",
    "own_size",
    "scratch",
    "tmpfs_file",
]

#: Space for ext4's own data beside the file's: a sixteenth, and a journal.
_EXT4_EXTRA = 96 << 20


@dataclass(frozen=True)
class Target:
    """A file to be mapped.

    :param filesystem: its type, such as ``ext4``
    :param file: path, or a descriptor that the processes inherit
    :param size: bytes
    :param writable: the processes may write to it
    """

    filesystem: str
    file: str | int
    size: int
    writable: bool


@contextmanager
def memfd(size: int) -> Iterator[Target]:
    """A file without a name, in memory."""
    fd = os.memfd_create("ptshare-demo")
    try:
        os.posix_fallocate(fd, 0, size)
        _bring_in(fd, size)
        yield Target("memfd", fd, size, writable=True)
    finally:
        os.close(fd)


@contextmanager
def tmpfs_file(size: int) -> Iterator[Target]:
    """A file on a tmpfs of its own; needs root.

    :raises CannotRunError: it cannot be mounted or filled
    """
    options = f"size={size + (1 << 20)},huge=never,mode=700"
    with (
        scratch("ptshare-demo-") as directory,
        mounted(["-t", "tmpfs", "-o", options, "ptshare-demo"], directory) as mount,
    ):
        path = mount / "data"
        with _created(path) as fd:
            os.posix_fallocate(fd, 0, size)
            _bring_in(fd, size)
        yield Target("tmpfs", str(path), size, writable=True)


@contextmanager
def ext4_file(size: int) -> Iterator[Target]:
    """A file on an ext4 of its own, in an image behind a loop device; needs root.

    Its blocks are allocated and read as zeros (unwritten extents), so that the image takes little space
    itself.

    :raises CannotRunError: it cannot be made, mounted or filled
    """
    with scratch("ptshare-demo-") as directory:
        image = directory / "image"
        with _created(image) as fd:
            os.truncate(fd, size + size // 16 + _EXT4_EXTRA)
        make_ext4(image)
        with mounted(["-t", "ext4", "-o", "loop", str(image)], directory) as mount:
            path = mount / "data"
            with _created(path) as fd:
                os.posix_fallocate(fd, 0, size)
                _bring_in(fd, size)
            yield Target("ext4", str(path), size, writable=True)


@contextmanager
def own_file(path: Path) -> Iterator[Target]:
    """A file of the user's own, opened for reading only.

    :raises CannotRunError: it cannot be read, or has nothing in it
    """
    size = own_size(path)
    try:
        with open(path, "rb", buffering=0) as file:
            _bring_in(file.fileno(), size)
    except OSError as error:
        raise CannotRunError(f"--file {path} cannot be mapped: {error.strerror}") from None
    yield Target(filesystem(path), str(path), size, writable=False)


def own_size(path: Path) -> int:
    """Bytes of a file of the user's own.

    :raises CannotRunError: it cannot be read, is no regular file, or has nothing in it
    """
    try:
        # O_NONBLOCK: the open of a FIFO would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CannotRunError(f"--file {path} cannot be read: {error.strerror}") from None
    status = os.fstat(fd)
    os.close(fd)
    if not stat.S_ISREG(status.st_mode):
        raise CannotRunError(f"--file {path} is no regular file")
    if status.st_size == 0:
        raise CannotRunError(f"--file {path} is empty: there is nothing to map")
    return status.st_size


def filesystem(path: Path) -> str:
    """Type of the file system that ``path`` is on."""
    real = path.resolve()
    best, name = -1, "unknown"
    # proc_pid_mountinfo(5): ... (5) mount point ... - (9) type
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4].encode().decode("unicode_escape")
        if real.is_relative_to(mount) and len(mount) >= best:
            best, name = len(mount), right.split()[0]
    return name


def make_ext4(image: Path) -> None:
    """Make an ext4 in a file, of the file's size.

    :raises CannotRunError: it cannot be made
    """
    lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    command(["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", lazy, str(image)])


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A directory for a while."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def mounted(arguments: list[str], directory: Path) -> Iterator[Path]:
    """Mount at ``directory``/mnt; at the end it must be possible to unmount."""
    mount = directory / "mnt"
    mount.mkdir()
    mounted = False
    try:
        with signals.uninterrupted():
            command(["mount", *arguments, str(mount)])
            mounted = True
        yield mount
    except BaseException:
        # What went wrong before is what the user has to hear of.
        with signals.uninterrupted(), contextlib.suppress(CannotRunError):
            if mounted:
                command(["umount", str(mount)])
        raise
    with signals.uninterrupted():
        command(["umount", str(mount)])


@contextmanager
def _created(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise CannotRunError(f"no space for {path}: use a smaller --size") from None
    finally:
        os.close(fd)


def command(argv: list[str]) -> str:
    """Run a command and return what it printed.

    :raises CannotRunError: it is not there, or failed
    """
    # Users other than root often have no sbin in PATH, where Debian keeps mkfs.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    try:
        run = subprocess.run(
            argv, check=True, capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
    except FileNotFoundError:
        raise CannotRunError(f"{argv[0]} is not installed: it is in Debian's e2fsprogs or mount") from None
    except subprocess.CalledProcessError as error:
        words = " ".join((error.stderr or error.stdout or "").split())
        raise CannotRunError(f"{argv[0]} failed ({error.returncode}): {words}") from None
    return run.stdout


def _bring_in(fd: int, size: int) -> None:
    """Have all pages of a file in the page cache, so that no later fault has to wait for a disk or to clear
    a page.
    """
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapping:
        mapping.madvise(abi.MADV_POPULATE_READ)
