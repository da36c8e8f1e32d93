# SPDX-License-Identifier: MIT
"""The repository's ``kernel/`` directory: new files, patches and configuration fragments."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptshare.lab.errors import LabError

__all__ = ["KernelDir", "kernel_dir"]


@dataclass(frozen=True)
class KernelDir:
    """What the project adds to a kernel's source.

    :param new_files: new files by their place in the kernel's tree
    :param patches: patches to standing files, in order
    :param part: only this many patches of the series, see :func:`ptshare.lab.series.first`; ``None``: all
    :param mutant: the last of the patches is this deliberate mistake, see :mod:`ptshare.lab.mutants`; empty:
        none is
    """

    path: Path
    new_files: Mapping[str, Path]
    patches: Sequence[Path]
    part: int | None = None
    mutant: str = ""

    @property
    def area(self) -> str:
        """Where in the cache its tree, objects and images are: mutants stay away from all that people use."""
        return "mutants/" if self.mutant else ""

    def fragments(self, config: str) -> list[Path]:
        """The fragments of a configuration, each on top of the one before: ``# based on: NAME`` in a fragment
        names the one below it.

        :raises LabError: there is no such configuration
        """
        path = self.path / "config" / f"{config}.config"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in path.parent.glob("*.config"))) or "none"
            raise LabError(f"unknown kernel configuration {config!r}; there are: {known}")
        below = re.search(r"^# based on: (\S+)$", path.read_text(), re.MULTILINE)
        return [*(self.fragments(below[1]) if below else ()), path]


def kernel_dir() -> KernelDir:
    """The ``kernel/`` beside the package's source, or the directory that PTSHARE_KERNEL_DIR names.

    :raises LabError: it is not there: the package was not installed from a checkout
    """
    path = Path(os.environ.get("PTSHARE_KERNEL_DIR") or Path(__file__).parents[3] / "kernel")
    if not (path / "config").is_dir():
        raise LabError(
            f"no kernel/config in {path}; install a checkout with pip install -e, or set PTSHARE_KERNEL_DIR"
        )
    src = path / "src"
    return KernelDir(
        path,
        {str(file.relative_to(src)): file for file in sorted(src.rglob("*")) if file.is_file()},
        sorted((path / "patches").glob("[0-9]*.patch")),
    )
