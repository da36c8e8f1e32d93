# SPDX-License-Identifier: MIT
"""The project's kernel change as one mailable series.

``kernel/patches/NNNN-NAME.patch`` are patches as git format-patch makes them. The new files stand as files
under ``kernel/src``; a description ``kernel/patches/NNNN-NAME.files`` makes a patch of some of them, at its
place among the numbers::

    From: A. Developer <a@example.org>
    Subject: mm: ptshare: domains
    Files: mm/ptshare.c include/linux/ptshare.h

    The changelog.

    Signed-off-by: A. Developer <a@example.org>

``Files:`` takes shell patterns and may be given more than once. Every new file is in exactly one description.
"""

import fnmatch
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ptshare.lab.errors import LabError
from ptshare.lab.kernel_dir import KernelDir

__all__ = ["Description", "first", "length", "mailbox", "new_file_diff", "numbered", "parse_description"]

#: git's "From " line, which is the same in every patch that it formats.
_MAGIC_DATE = "Mon Sep 17 00:00:00 2001"


@dataclass(frozen=True)
class Description:
    """What a ``.files`` file says."""

    author: str
    subject: str
    date: str
    patterns: tuple[str, ...]
    body: str


def parse_description(path: Path) -> Description:
    """Read a ``.files`` file.

    :raises LabError: a header is missing or unknown
    """
    head, _, body = path.read_text().partition("\n\n")
    headers: dict[str, list[str]] = {"From": [], "Subject": [], "Date": [], "Files": []}
    for line in head.splitlines():
        name, separator, value = line.partition(": ")
        if not separator or name not in headers:
            raise LabError(f"{path}: {line!r} is none of the headers From, Subject, Date and Files")
        headers[name].append(value.strip())
    for name in ("From", "Subject", "Files"):
        if not headers[name]:
            raise LabError(f"{path}: the header {name} is missing")
    patterns = tuple(pattern for value in headers["Files"] for pattern in value.split())
    date = headers["Date"][0] if headers["Date"] else ""
    return Description(headers["From"][0], headers["Subject"][0], date, patterns, body.strip() + "\n")


def new_file_diff(name: str, content: bytes) -> str:
    """A new file as git shows it."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    text = content.decode()
    lines = text.splitlines(keepends=True)
    header = f"diff --git a/{name} b/{name}\nnew file mode 100644\nindex 000000000000..{blob[:12]}\n"
    if not lines:
        return header
    count = f"1,{len(lines)}" if len(lines) > 1 else "1"
    body = "".join(f"+{line}" for line in lines)
    if not text.endswith("\n"):
        body += "\n\\ No newline at end of file\n"
    return f"{header}--- /dev/null\n+++ b/{name}\n@@ -0,0 +{count} @@\n{body}"


def _formatted(description: Description, files: dict[str, Path]) -> str:
    """A description and its files as a patch in git's format."""
    contents = {name: path.read_bytes() for name, path in files.items()}
    width = max(len(name) for name in contents)
    added = {name: content.count(b"\n") for name, content in contents.items()}
    stat = "".join(f" {name:<{width}} | {count}\n" for name, count in added.items())
    plural = "" if len(files) == 1 else "s"
    stat += f" {len(files)} file{plural} changed, {sum(added.values())} insertions(+)\n"
    stat += "".join(f" create mode 100644 {name}\n" for name in contents)
    date = f"Date: {description.date}\n" if description.date else ""
    diffs = "".join(new_file_diff(name, content) for name, content in contents.items())
    return (
        f"From {'0' * 40} {_MAGIC_DATE}\nFrom: {description.author}\n{date}"
        f"Subject: [PATCH] {description.subject}\n\n"
        f"{description.body}---\n{stat}\n{diffs}-- \nptshare\n\n"
    )


def _topics(kernel: KernelDir) -> list[Path]:
    """Patches and descriptions in order."""
    return sorted([*(kernel.path / "patches").glob("[0-9]*.files"), *kernel.patches])


def _resolved(kernel: KernelDir) -> Iterator[tuple[Path, Description | None, dict[str, Path]]]:
    """Each topic: its file; for new files their description, and which they are."""
    left = dict(kernel.new_files)
    for path in _topics(kernel):
        if path.suffix == ".patch":
            yield path, None, {}
            continue
        description = parse_description(path)
        files = {}
        for pattern in description.patterns:
            names = fnmatch.filter(left, pattern)
            if not names:
                raise LabError(
                    f"{path}: no file in {kernel.path / 'src'} fits {pattern}, or an earlier patch has it"
                )
            files.update({name: left.pop(name) for name in names})
        yield path, description, files
    if left:
        raise LabError(
            f"no {kernel.path}/patches/NNNN-NAME.files has the new files {', '.join(left)}; add them to one"
        )


def length(kernel: KernelDir) -> int:
    """The number of patches in the series."""
    return len(_topics(kernel))


def first(kernel: KernelDir, count: int) -> KernelDir:
    """The same with the first ``count`` patches of the series only; with none it is Debian's kernel.

    :raises LabError: the series is not that long, or as :func:`numbered`
    """
    topics = list(_resolved(kernel))
    if not 0 <= count <= len(topics):
        raise LabError(f"the series has {len(topics)} patches, {count} of them were asked for")
    new_files = {name: path for _, _, files in topics[:count] for name, path in files.items()}
    patches = [path for path, description, _ in topics[:count] if description is None]
    return replace(kernel, new_files=new_files, patches=patches, part=count)


def numbered(kernel: KernelDir) -> list[str]:
    """New files and patches as a series, in order.

    :raises LabError: a new file is in no description or in two, or a description's pattern fits no file
    """
    parts = [
        _formatted(description, files) if description else path.read_text()
        for path, description, files in _resolved(kernel)
    ]
    total = len(parts)
    return [
        re.sub(
            r"^Subject: (\[PATCH[^]]*\] )?", f"Subject: [PATCH {number}/{total}] ", part, count=1, flags=re.M
        )
        for number, part in enumerate(parts, 1)
    ]


def mailbox(kernel: KernelDir) -> str:
    """The series as one mailbox for git am or b4.

    :raises LabError: as :func:`numbered`
    """
    return "".join(numbered(kernel))
