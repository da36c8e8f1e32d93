# SPDX-License-Identifier: MIT
"""The kernel's configuration: tinyconfig and the fragments on top of it."""

import hashlib
import json
import re
import subprocess
from pathlib import Path

from ptshare.lab.errors import LabError
from ptshare.lab.kernel_dir import KernelDir
from ptshare.lab.process import need_tools

__all__ = ["configure", "dropped", "options"]

_SET = re.compile(r"^(CONFIG_\w+)=(.*)$")
_UNSET = re.compile(r"^# (CONFIG_\w+) is not set$")


def options(text: str) -> dict[str, str]:
    """Options and their values in a ``.config`` or a fragment; one that is not set is ``n``."""
    values = {}
    for line in text.splitlines():
        if match := _SET.match(line):
            values[match[1]] = match[2]
        elif match := _UNSET.match(line):
            values[match[1]] = "n"
    return values


def dropped(wanted: dict[str, str], config: str) -> list[str]:
    """Options of the fragments that Kconfig did not take, as ``CONFIG_NAME=value``."""
    have = options(config)
    return [f"{name}={value}" for name, value in wanted.items() if have.get(name, "n") != value]


def _wanted(kernel: KernelDir, config: str) -> dict[str, str]:
    """What the fragments say. A kernel with a part of the series says so in its name."""
    wanted: dict[str, str] = {}
    for fragment in kernel.fragments(config):
        wanted |= options(fragment.read_text())
    if kernel.part is not None:
        wanted["CONFIG_LOCALVERSION"] = f'"-patches-{kernel.part}"'
    return wanted


def _kconfig_digest(tree: Path, wanted: dict[str, str], changed: list[str]) -> str:
    """Changes when what is wanted does, or a Kconfig file of ours."""
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode())
    for path in (tree / name for name in changed if Path(name).name.startswith("Kconfig")):
        digest.update(str(path.name).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _make(tree: Path, out: Path, log: Path, *arguments: str) -> None:
    with log.open("a") as file:
        result = subprocess.run(
            ["make", "-C", str(tree), f"O={out}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if result.returncode:
        raise LabError(f"make {arguments[-1]} failed; see {log}")


def configure(
    tree: Path, out: Path, kernel: KernelDir, config: str, changed: list[str], make_arguments: list[str]
) -> None:
    """Write ``out/.config``. Does nothing if neither the fragments nor our Kconfig files changed.

    :param changed: files in which the tree differs from Debian's
    :raises LabError: no such configuration, or Kconfig did not take an option; names every such option
    """
    wanted = _wanted(kernel, config)
    need_tools("make", "gcc", "ld", "flex", "bison")
    out.mkdir(parents=True, exist_ok=True)
    stamp = out / ".ptshare-configured"
    digest = _kconfig_digest(tree, wanted, changed)
    if stamp.exists() and stamp.read_text() == digest and (out / ".config").exists():
        return
    stamp.unlink(missing_ok=True)
    log = out / "configure.log"
    log.unlink(missing_ok=True)
    _make(tree, out, log, *make_arguments, "tinyconfig")
    # Kconfig takes the last word on an option.
    with (out / ".config").open("a") as file:
        for name, value in wanted.items():
            file.write(f"# {name} is not set\n" if value == "n" else f"{name}={value}\n")
    _make(tree, out, log, *make_arguments, "olddefconfig")
    missing = dropped(wanted, (out / ".config").read_text())
    if kernel.part is not None:
        # The series brings this option with one of its last patches.
        missing = [option for option in missing if option != "CONFIG_PTSHARE=y"]
    if missing:
        raise LabError(
            f"Kconfig dropped {', '.join(missing)} of the configuration {config!r}: an option does not exist "
            "in this source, or something that it depends on is off; correct the fragment"
        )
    stamp.write_text(digest)
