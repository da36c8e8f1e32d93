# SPDX-License-Identifier: MIT
"""make bzImage, with its progress."""

import json
import os
import re
import shutil
from pathlib import Path

from ptshare.lab import cache
from ptshare.lab.errors import LabError
from ptshare.lab.process import lines_of, need_tools
from ptshare.lab.progress import Callback, Tracker

__all__ = ["build", "make_arguments"]

_OUT_BYTES = 1 << 30
#: Steps that make prints in a clean build of the base configuration; a build remembers its own number.
_STEPS = 1620
_STEP = re.compile(r"^  (CC|AS|LD|AR|HOSTCC|HOSTLD|GEN|UPD|WRAP|OBJCOPY|CHK|VDSO\w*|SYSTBL|SYSHDR)\b")
_ERROR = re.compile(r"(:\d+: (fatal )?error: |: error: |\*\*\* |undefined reference|No space left on device)")


def make_arguments() -> list[str]:
    """Compiler and names for make: ccache if it is there, and nothing of this machine in the image."""
    arguments = ["KBUILD_BUILD_USER=ptshare", "KBUILD_BUILD_HOST=lab"]
    if shutil.which("ccache"):
        arguments.append("CC=ccache gcc")
    return arguments


#: What is made, and whether objects of former builds may be taken for it. Not where a file has another one
#: in it by .incbin, as the kernel in the image: of that ccache knows nothing (CCACHE_DEPEND), and takes the
#: object of another kernel if all sizes happen to be the same.
_TARGETS = (("arch/x86/realmode/", False), ("vmlinux", True), ("bzImage", False))


def _already_built(out: Path) -> int:
    return sum(1 for path in out.rglob("*.o") if path.is_file())


def build(tree: Path, out: Path, log: Path, progress: Callback, name: str = "") -> Path:
    """Build what is out of date and return the bzImage.

    :param log: file that gets make's output
    :param name: end of the kernel's release, behind the configuration's; few objects know it
    :raises LabError: a tool is missing, the disk is full, or the source does not compile
    """
    need_tools("make", "gcc", "ld", "flex", "bison", "bc", "/usr/include/gelf.h")
    remembered = out / ".ptshare-steps"
    total, already = 0, 0
    if not (out / "vmlinux").exists():
        cache.need_space(out, _OUT_BYTES, "build the kernel")
        total = json.loads(remembered.read_text()) if remembered.exists() else _STEPS
        already = _already_built(out)
    tracker = Tracker(progress, "build", total, already)
    env = {
        # The directory must not enter the hashes: another cache directory finds the same objects.
        "CCACHE_BASEDIR": str(cache.directory()),
        "CCACHE_NOHASHDIR": "1",
        # What a file includes is told by the compiler as it compiles, not by a preprocessor run before.
        "CCACHE_DEPEND": "1",
        # A tree that was unpacked just now is older than its objects all the same.
        "CCACHE_SLOPPINESS": "include_file_ctime,include_file_mtime",
        "LC_ALL": "C.UTF-8",
    }
    if name:
        env["LOCALVERSION"] = name
    errors = []
    command = ["make", "-C", str(tree), f"O={out}", f"-j{len(os.sched_getaffinity(0))}", *make_arguments()]
    with log.open("w") as file:
        for target, cached in _TARGETS:
            environment = env if cached else {**env, "CCACHE_DISABLE": "1"}
            with lines_of([*command, target], log=file, env=environment) as (process, lines):
                for line in lines:
                    if _STEP.match(line):
                        tracker.step()
                    elif _ERROR.search(line):
                        errors.append(line.strip())
            if process.returncode:
                break
    if process.returncode:
        if any("No space left on device" in line for line in errors):
            raise LabError(
                f"the disk of {out} is full; free some space and run again, it will go on; log: {log}"
            )
        raise LabError(f"the kernel does not build: {errors[0] if errors else 'no message'}; log: {log}")
    if total:
        remembered.write_text(json.dumps(already + tracker.steps))
    return out / "arch/x86/boot/bzImage"
