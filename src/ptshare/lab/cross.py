# SPDX-License-Identifier: MIT
"""An architecture without the feature, arm64: the series compiles there, and what it leaves as it was."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ptshare.lab import apply, cache, fetch
from ptshare.lab.configure import configure
from ptshare.lab.errors import LabError
from ptshare.lab.kernel_dir import KernelDir
from ptshare.lab.process import need_tools
from ptshare.lab.progress import Callback, Progress
from ptshare.lab.series import first

__all__ = ["Change", "changed_objects"]

_ARCH = "arm64"
_PREFIX = "aarch64-linux-gnu-"
#: All that the series touches, but for what is x86's alone.
_TARGETS = ("mm/", "fs/proc/", "fs/coredump.o", "kernel/fork.o", "kernel/sched/", f"arch/{_ARCH}/mm/")


@dataclass(frozen=True)
class Change:
    """An object whose instructions differ.

    :param bytes: by how much its text and data grow
    """

    name: str
    bytes: int


def _arguments() -> list[str]:
    compiler = f"{_PREFIX}gcc"
    if shutil.which("ccache"):
        compiler = f"ccache {compiler}"
    return [f"ARCH={_ARCH}", f"CROSS_COMPILE={_PREFIX}", f"CC={compiler}"]


def _compile(tree: Path, out: Path, kernel: KernelDir, changed: list[str]) -> None:
    configure(tree, out, kernel, _ARCH, changed, _arguments())
    log = out / "build.log"
    processors = len(os.sched_getaffinity(0))
    command = ["make", "-C", str(tree), f"O={out}", f"-j{processors}", *_arguments(), *_TARGETS]
    with log.open("w") as file:
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file).returncode:
            raise LabError(f"the kernel does not build for {_ARCH}; see {log}")


def _objects(out: Path) -> dict[str, Path]:
    """What was compiled, without what make links of it."""
    directories = sorted({target.rpartition("/")[0] for target in _TARGETS})
    found = [path for directory in directories for path in (out / directory).rglob("*.o")]
    return {
        str(path.relative_to(out)): path
        for path in found
        if path.name != "built-in.o" and path.with_name(f".{path.name}.cmd").exists()
    }


def _instructions(path: Path) -> str:
    told = subprocess.run(
        [f"{_PREFIX}objdump", "-d", "-r", str(path)], capture_output=True, text=True, check=True
    )
    return told.stdout.partition("\n\n")[2].partition("\n")[2]


def _size(path: Path) -> int:
    told = subprocess.run([f"{_PREFIX}size", str(path)], capture_output=True, text=True, check=True)
    return int(told.stdout.splitlines()[1].split()[3])


def changed_objects(kernel: KernelDir, progress: Callback) -> tuple[int, list[Change]]:
    """Compile what the series touches without and with it.

    :return: how many objects there are, and those whose instructions differ
    :raises LabError: the cross compiler is missing, or it does not build
    """
    need_tools("make", f"{_PREFIX}gcc")
    with cache.lock("build"):
        source = fetch.fetch(progress)
        outs = {name: cache.directory("out") / f"{_ARCH}-{name}" for name in ("without", "with")}
        progress(Progress("build"))
        _compile(source.path, outs["without"], first(kernel, 0), [])
        _compile(apply.apply(source, kernel), outs["with"], kernel, [])
    before, after = _objects(outs["without"]), _objects(outs["with"])
    if set(before) != set(after):
        raise LabError(f"objects come or go with the series: {sorted(set(before) ^ set(after))}")
    changes = [
        Change(name, _size(path) - _size(before[name]))
        for name, path in sorted(after.items())
        if _instructions(path) != _instructions(before[name])
    ]
    return len(after), changes
