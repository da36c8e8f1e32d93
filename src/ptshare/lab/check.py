# SPDX-License-Identifier: MIT
"""What the kernel's own checkers say of the series: checkpatch.pl --strict, and sparse on the new files. And
whether the kernel builds and boots after each patch.
"""

import fnmatch
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptshare.lab import cache, fetch
from ptshare.lab.build import make_arguments
from ptshare.lab.errors import LabError
from ptshare.lab.guest import run_guest
from ptshare.lab.image import build_image, configured
from ptshare.lab.kernel_dir import KernelDir
from ptshare.lab.process import need_tools
from ptshare.lab.progress import Callback
from ptshare.lab.series import numbered

__all__ = ["Finding", "checkpatch", "checkpatch_findings", "each_patch", "sparse", "sparse_findings"]

_CHECKPATCH = re.compile(r"^.*?(\d+)\.patch:(\d+): (ERROR|WARNING|CHECK):(\w+): (.*)$", re.MULTILINE)
_SPARSE = re.compile(r"^(\S+?):(\d+):\d+: ((?:warning|error): .*)$", re.MULTILINE)
_HUNK = re.compile(r"^@@ -\S+ \+(\d+)")
_SPARSE_TARGET = "mm/ptshare/"
_SUBJECT = re.compile(r"^Subject: (\[PATCH .*)$", re.MULTILINE)
_BOOT_SECONDS = 300.0


@dataclass(frozen=True)
class Finding:
    """A complaint of a checker.

    :param place: ``FILE:LINE``, or the patch and its line for its changelog
    :param accepted: why it stays as it is; empty if it should not
    """

    place: str
    message: str
    accepted: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" + (f" [accepted: {self.accepted}]" if self.accepted else "")


@dataclass(frozen=True)
class _Rule:
    """What is accepted: types of checkpatch, in which files, on which lines, and why. The type of all that
    sparse says is ``sparse``, and its message stands for the line.
    """

    types: str
    files: str
    text: str
    why: str

    def accepts(self, kind: str, file: str, text: str) -> bool:
        return (
            re.fullmatch(self.types, kind) is not None
            and fnmatch.fnmatch(file, self.files)
            and re.search(self.text, text) is not None
        )


_RULES = (
    _Rule("FILE_PATH_CHANGES", "*", "", "MAINTAINERS is for those who take the series"),
    _Rule(
        "PARENTHESIS_ALIGNMENT|OPEN_ENDED_LINE",
        "include/trace/events/*",
        "",
        "tracepoints are laid out like this",
    ),
    _Rule(
        "SPACING|MACRO_ARG_UNUSED",
        "include/trace/events/mmflags.h",
        "VM_SHARED_PT",
        "as the lines around it",
    ),
    _Rule("SPACING", "include/linux/mman.h", "MAP_SHARED_PT", "as the lines around it"),
    _Rule("LINE_SPACING", "*.c", r"\bVMA_ITERATOR\(", "it is a declaration, which checkpatch does not know"),
    _Rule("UNCOMMENTED_DEFINITION", "*.c", r"\bspinlock_t \*", "a pointer to a lock, not a lock"),
    _Rule(
        "UNCOMMENTED_DEFINITION", "mm/ptshare/ptshare.h", "", "the comment is the kernel-doc of the structure"
    ),
    _Rule("MACRO_ARG_REUSE", "mm/ptshare/sysfs.c", "_name", "a name, not an expression"),
    _Rule(
        "sparse",
        "mm/ptshare/mmap.c",
        "context imbalance in 'ptshare_carry_pmd'",
        "as in other callers of pte_offset_map_lock(), whose lock sparse does not see",
    ),
)


def _why(kind: str, file: str, text: str) -> str:
    return next((rule.why for rule in _RULES if rule.accepts(kind, file, text)), "")


def _places(patch: str) -> Iterator[tuple[str, int, str]]:
    """For each line of a patch: the file, the line there, and the text. The changelog is in no file."""
    file, line = "", 0
    for text in patch.splitlines():
        if text.startswith("diff --git "):
            file = text.rpartition(" b/")[2]
        elif match := _HUNK.match(text):
            line = int(match[1]) - 1
        elif not text.startswith("-"):
            line += 1
        yield file, line, text


def checkpatch_findings(output: str, patches: Sequence[str]) -> list[Finding]:
    """Read the output of ``checkpatch.pl --terse --show-types`` for files 1.patch, 2.patch, ..."""
    places = [list(_places(patch)) for patch in patches]
    findings = []
    for number, at, level, kind, message in _CHECKPATCH.findall(output):
        file, line, text = places[int(number) - 1][int(at) - 1]
        place = f"{file}:{line}" if file else f"patch {number}, line {at}"
        findings.append(Finding(place, f"{level}:{kind}: {message}", _why(kind, file, text)))
    return findings


def checkpatch(kernel: KernelDir, progress: Callback) -> list[Finding]:
    """Run the checkpatch.pl of the source on each patch of the series.

    :raises LabError: perl is missing, the series is not complete, or checkpatch.pl does not run
    """
    need_tools("perl")
    patches = numbered(kernel)
    with cache.lock("build"):
        source = fetch.fetch(progress)
    with tempfile.TemporaryDirectory() as directory:
        names = []
        for number, patch in enumerate(patches, 1):
            names.append(f"{directory}/{number}.patch")
            Path(names[-1]).write_text(patch)
        script = source.path / "scripts/checkpatch.pl"
        options = ["--strict", "--terse", "--show-types", "--no-summary", f"--root={source.path}"]
        result = subprocess.run(
            ["perl", str(script), *options, *names], cwd=source.path, capture_output=True, text=True
        )
    findings = checkpatch_findings(result.stdout, patches)
    if result.returncode and not findings:
        message = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabError(f"checkpatch.pl does not run: {message}")
    return findings


def sparse_findings(output: str, files: Sequence[str]) -> list[Finding]:
    """Read what sparse says of ``files``; what it says of the rest of the kernel is not ours."""
    findings = []
    for name, line, message in _SPARSE.findall(output):
        own = next((file for file in files if f"/{name}".endswith(f"/{file}")), "")
        if own:
            findings.append(Finding(f"{own}:{line}", message, _why("sparse", own, message)))
    return list(dict.fromkeys(findings))


def sparse(kernel: KernelDir, config: str, progress: Callback) -> list[Finding]:
    """Run sparse on the new files, as the kernel's build does.

    :raises LabError: sparse is missing, or the files do not compile
    """
    need_tools("sparse", "make")
    with cache.lock("build"):
        tree, out = configured(fetch.fetch(progress), kernel, config, progress)
        result = subprocess.run(
            ["make", "-C", str(tree), f"O={out}", *make_arguments(), "C=2", _SPARSE_TARGET],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log = out / "sparse.log"
        log.write_text(result.stdout)
    if result.returncode:
        raise LabError(f"make C=2 {_SPARSE_TARGET} failed; see {log}")
    return sparse_findings(result.stdout, list(kernel.new_files))


def each_patch(kernel: KernelDir, config: str, progress: Callback) -> Iterator[tuple[str, str]]:
    """Build and boot the kernel after each patch of the series, as who bisects does.

    :return: for each patch its subject, and what is wrong; empty if nothing is
    :raises LabError: a tool or the source is missing, or there is no such configuration
    """
    for count, patch in enumerate(numbered(kernel), 1):
        subject = _SUBJECT.search(patch)
        assert subject, f"patch {count} has no subject"
        try:
            image = build_image(config, progress, count)
        except LabError as error:
            yield subject[1], str(error)
            continue
        result = run_guest(["true"], image=image, timeout=_BOOT_SECONDS)
        yield subject[1], result.complaint() or ""
