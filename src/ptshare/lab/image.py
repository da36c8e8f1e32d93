# SPDX-License-Identifier: MIT
"""From the kernel's source to a bootable image: the stages in order, and the cache of images."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ptshare.lab import apply, cache, fetch
from ptshare.lab.build import build, make_arguments
from ptshare.lab.configure import configure
from ptshare.lab.kernel_dir import KernelDir, kernel_dir
from ptshare.lab.mutants import mutated
from ptshare.lab.process import need_tools
from ptshare.lab.progress import Callback, Progress
from ptshare.lab.series import first

__all__ = ["Image", "Progress", "build_image", "configured"]

_IMAGES_KEPT = 6
_MUTANTS_KEPT = 40


@dataclass(frozen=True)
class Image:
    """A kernel that can be booted.

    :param bzimage: the compressed kernel; beside it stand its ``.config``, ``System.map`` and ``build.log``
    :param config: name of its configuration, ``base``, ``debug``, ...
    :param version: the source's version, such as ``6.12.117-1~deb12u1``
    """

    bzimage: Path
    config: str
    version: str


def _key(version: str, kernel: KernelDir, config: str) -> str:
    """Hash of all that an image is made from."""
    need_tools("gcc", "ld")
    compiler = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256()
    part = "" if kernel.part is None else str(kernel.part)  # it is in the kernel's name
    for name, content in (("source", version), ("gcc", compiler), ("part", part)):
        digest.update(f"{name}\0{content}\0".encode())
    named = {**kernel.new_files, **{path.name: path for path in (*kernel.patches, *kernel.fragments(config))}}
    for name, path in sorted(named.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cached(version: str | None, kernel: KernelDir, config: str) -> Image | None:
    if version is None:
        return None
    directory = cache.directory(f"{kernel.area}images") / f"{config}-{_key(version, kernel, config)}"
    if not (directory / "bzImage").exists():
        return None
    os.utime(directory)  # used: the last to be pruned
    return Image(directory / "bzImage", config, version)


def _store(out: Path, log: Path, image: Path, keep: int) -> None:
    """Copy a build's results to the cache of images, all or nothing."""
    images = image.parent
    temporary = Path(tempfile.mkdtemp(prefix="new-", dir=images))
    for name in ("arch/x86/boot/bzImage", ".config", "System.map"):
        shutil.copy(out / name, temporary / Path(name).name)
    shutil.copy(log, temporary / "build.log")
    shutil.rmtree(image, ignore_errors=True)
    temporary.rename(image)
    cache.prune(images, keep)


def build_image(
    config: str = "base", progress: Callback | None = None, patches: int | None = None, mutant: str = ""
) -> Image:
    """Fetch, apply, configure and build; at once if an image of the same content is in the cache.

    An interrupted build goes on where it was. Two builds at a time wait for each other.

    :param patches: with only this many patches of the series, in a tree of its own; 0: the kernel as Debian
        has it
    :param mutant: with this deliberate mistake on top, see :mod:`ptshare.lab.mutants`; empty: with none
    :raises LabError: a tool or the source package is missing, the disk is full, the series does not apply or
        is shorter, the configuration or the mutant is unknown, or the compiler failed
    """
    report: Callback = progress or (lambda _: None)
    kernel = kernel_dir()
    if patches is not None:
        kernel = first(kernel, patches)
    if mutant:
        kernel = mutated(kernel, mutant)
    kernel.fragments(config)
    image = _cached(fetch.current(), kernel, config)
    if image is None:
        with cache.lock("build", waiting=lambda: report(Progress("wait"))):
            image = _cached(fetch.current(), kernel, config)  # by whom we waited for
            image = image or _build(kernel, config, report)
    report(Progress("done", 1, 1, 0.0))
    return image


def configured(source: fetch.Source, kernel: KernelDir, config: str, report: Callback) -> tuple[Path, Path]:
    """The patched tree, and the directory to build it in. The caller holds the lock ``build``.

    :raises LabError: as :func:`build_image`
    """
    report(Progress("apply"))
    tree = apply.apply(source, kernel)
    changed: list[str] = json.loads((tree / apply.MANIFEST).read_text())
    out = cache.directory(f"{kernel.area}out") / (config if kernel.part is None else f"{config}-part")
    report(Progress("configure"))
    configure(tree, out, kernel, config, changed, make_arguments())
    return tree, out


def _build(kernel: KernelDir, config: str, report: Callback) -> Image:
    source = fetch.fetch(report)
    image = cache.directory(f"{kernel.area}images") / f"{config}-{_key(source.version, kernel, config)}"
    tree, out = configured(source, kernel, config, report)
    log = out / "build.log"
    build(tree, out, log, report, f"-{kernel.mutant}" if kernel.mutant else "")
    _store(out, log, image, _MUTANTS_KEPT if kernel.mutant else _IMAGES_KEPT)
    return Image(image / "bzImage", config, source.version)
