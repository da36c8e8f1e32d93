# SPDX-License-Identifier: MIT
"""The source with the project's new files and patches.

The tree is made of hard links to the pristine source. Only files whose content changes are replaced, so that
make rebuilds little after a small change, and nothing is changed if the series does not apply.
"""

import filecmp
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ptshare.lab import cache
from ptshare.lab.errors import LabError
from ptshare.lab.fetch import Source
from ptshare.lab.kernel_dir import KernelDir
from ptshare.lab.process import need_tools

__all__ = ["MANIFEST", "apply", "patched_files", "touched_files"]

#: In the tree: the files in which it differs from the source.
MANIFEST = ".ptshare-applied"
_HEADER = re.compile(r"^(?:---|\+\+\+) (?:[ab]/)?([^\t\n]+)", re.MULTILINE)
_PATCHING = re.compile(r"^(?:patching|checking) file '?([^']+?)'?$")
_FAILED = re.compile(r"^Hunk #(\d+) FAILED at (\d+)")


def touched_files(patch: str) -> set[str]:
    """Files that a patch changes, adds or removes, by their place in the tree."""
    files = set()
    lines = patch.splitlines()
    for first, second in itertools.pairwise(lines):
        if first.startswith("--- ") and second.startswith("+++ "):
            files |= {match[1] for line in (first, second) if (match := _HEADER.match(line))}
    return files - {"/dev/null"}


def _explain(output: str) -> str:
    """The first file and hunk that patch(1) could not place."""
    file = "unknown file"
    for line in output.splitlines():
        if match := _PATCHING.match(line):
            file = match[1]
        elif match := _FAILED.match(line):
            return f"{file}, hunk {match[1]} at line {match[2]}"
        elif "can't find file" in line or "No file to patch" in line:
            return "a file that is not in this source"
        elif "previously applied" in line:
            return f"{file}: already applied or reversed"
    return (output.strip().splitlines() or ["no message"])[-1]


def patched_files(source: Source, kernel: KernelDir, scratch: Path) -> None:
    """Make in ``scratch`` the new files and every file that the series changes, as they are after it.

    :raises LabError: a patch does not apply; names it, the file and the source's version
    """
    need_tools("patch")
    touched = {name for patch in kernel.patches for name in touched_files(patch.read_text(errors="replace"))}
    copies = {name: source.path / name for name in touched if (source.path / name).is_file()}
    for name, origin in {**copies, **kernel.new_files}.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin, scratch / name)
    for patch in kernel.patches:
        result = subprocess.run(
            ["patch", "-p1", "--forward", "--batch", "--no-backup-if-mismatch", "-r", "-", "-i", str(patch)],
            cwd=scratch,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if result.returncode:
            reason = _explain(result.stdout + result.stderr)
            what = "it" if kernel.mutant and patch == kernel.patches[-1] else f"the series in {patch.parent}"
            raise LabError(
                f"{patch.name} does not apply to Linux {source.release} ({reason}); "
                f"{what} needs a rebase onto this source"
            )


def _link_tree(source: Path, tree: Path) -> None:
    """A copy of ``source`` as hard links; all or nothing."""
    temporary = tree.with_name(f"{tree.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    subprocess.run(["cp", "-al", str(source), str(temporary)], check=True)
    temporary.rename(tree)


def _replace(tree: Path, name: str, content: Path) -> None:
    """Put ``content`` in place of ``name``, never through the hard link, with a new modification time."""
    target = tree / name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    shutil.copyfile(content, temporary)
    shutil.copymode(content, temporary)
    temporary.replace(target)
    os.utime(target)


def apply(source: Source, kernel: KernelDir) -> Path:
    """The tree with new files and series applied, up to date.

    :raises LabError: a patch does not apply, or the disk is full
    """
    trees = cache.directory(f"{kernel.area}tree")
    whole, part = trees / source.version, trees / f"{source.version}-part"
    tree = whole if kernel.part is None else part
    for other in trees.iterdir():
        if other not in (whole, part):
            shutil.rmtree(other, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache.directory()) as temporary:
        scratch = Path(temporary)
        patched_files(source, kernel, scratch)
        if not tree.is_dir():
            _link_tree(source.path, tree)
        manifest = tree / MANIFEST
        before: list[str] = json.loads(manifest.read_text()) if manifest.exists() else []
        now = sorted(str(path.relative_to(scratch)) for path in scratch.rglob("*") if path.is_file())
        # The manifest first names what may be changed, in case this is interrupted.
        manifest.write_text(json.dumps(sorted({*before, *now})))
        for name in sorted({*before, *now}):
            wanted = scratch / name if name in now else source.path / name
            if not wanted.exists():
                (tree / name).unlink(missing_ok=True)
            elif not (tree / name).exists() or not filecmp.cmp(wanted, tree / name, shallow=False):
                _replace(tree, name, wanted)
        manifest.write_text(json.dumps(now))
    return tree
