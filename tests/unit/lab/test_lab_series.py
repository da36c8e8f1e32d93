# SPDX-License-Identifier: MIT
"""The mailable series: numbered, complete, and accepted by git am."""

import subprocess
from pathlib import Path

import pytest

from ptshare.lab.errors import LabError
from ptshare.lab.kernel_dir import kernel_dir
from ptshare.lab.series import first, length, mailbox

DESCRIPTION = """From: A. Developer <a@example.org>
Date: Sat, 1 Aug 2026 12:00:00 +0000
Subject: mm: ptshare: domains
Files: mm/*.c
Files: include/linux/ptshare.h

Why.

Signed-off-by: A. Developer <a@example.org>
"""
PATCH = """From 1111111111111111111111111111111111111111 Mon Sep 17 00:00:00 2001
From: A. Developer <a@example.org>
Date: Sat, 1 Aug 2026 12:00:00 +0000
Subject: [PATCH] mm: build ptshare

Because.
---
 mm/Makefile | 1 +
 1 file changed, 1 insertion(+)

diff --git a/mm/Makefile b/mm/Makefile
index 1234567..89abcde 100644
--- a/mm/Makefile
+++ b/mm/Makefile
@@ -1 +1,2 @@
 obj-y := memory.o
+obj-$(CONFIG_PTSHARE) += ptshare.o
--\x20
2.39.0
"""


@pytest.fixture
def series(kernel: Path) -> Path:
    for name, text in (("mm/ptshare.c", "int a;\nint b;\n"), ("include/linux/ptshare.h", "no newline")):
        (kernel / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (kernel / "src" / name).write_text(text)
    (kernel / "patches/0001-domains.files").write_text(DESCRIPTION)
    (kernel / "patches/0002-build.patch").write_text(PATCH)
    return kernel


@pytest.mark.usefixtures("series")
def test_patches_are_numbered_in_order() -> None:
    subjects = [line for line in mailbox(kernel_dir()).splitlines() if line.startswith("Subject:")]
    assert subjects == [
        "Subject: [PATCH 1/2] mm: ptshare: domains",
        "Subject: [PATCH 2/2] mm: build ptshare",
    ]


@pytest.mark.usefixtures("series")
def test_git_takes_it(tmp_path: Path) -> None:
    repository = tmp_path / "linux"
    (repository / "mm").mkdir(parents=True)
    (repository / "mm/Makefile").write_text("obj-y := memory.o\n")

    def git(*arguments: str, given: str = "") -> str:
        command = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(
            command, cwd=repository, input=given, capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "base")
    git("am", "-q", given=mailbox(kernel_dir()))
    assert (repository / "mm/ptshare.c").read_text() == "int a;\nint b;\n"
    assert (repository / "include/linux/ptshare.h").read_text() == "no newline"
    assert (repository / "mm/Makefile").read_text().endswith("+= ptshare.o\n")
    assert git("log", "--format=%an|%s", "-2").splitlines() == [
        "A. Developer|mm: build ptshare",
        "A. Developer|mm: ptshare: domains",
    ]
    assert "Why." in git("log", "-1", "--format=%b", "HEAD~1")


def test_the_first_patches_of_the_series(series: Path) -> None:
    kernel = kernel_dir()
    assert length(kernel) == 2
    files = {"mm/ptshare.c", "include/linux/ptshare.h"}
    wanted = {0: (set(), []), 1: (files, []), 2: (files, [series / "patches/0002-build.patch"])}
    for count, (new_files, patches) in wanted.items():
        part = first(kernel, count)
        assert (set(part.new_files), part.patches, part.part) == (new_files, patches, count)
    for count in (-1, 3):
        with pytest.raises(LabError, match=f"the series has 2 patches, {count} of them were asked for"):
            first(kernel, count)


def test_a_file_in_no_description(series: Path) -> None:
    (series / "src/mm/other.h").write_text("x\n")
    with pytest.raises(LabError, match=r"mm/other\.h; add"):
        mailbox(kernel_dir())


def test_a_pattern_without_files(series: Path) -> None:
    (series / "src/include/linux/ptshare.h").unlink()
    with pytest.raises(LabError, match=r"no file in .* fits include/linux/ptshare\.h"):
        mailbox(kernel_dir())


@pytest.mark.parametrize("header", ["From", "Subject", "Files"])
def test_a_missing_header(series: Path, header: str) -> None:
    lines = [line for line in DESCRIPTION.splitlines() if not line.startswith(f"{header}:")]
    (series / "patches/0001-domains.files").write_text("\n".join(lines))
    with pytest.raises(LabError, match=f"header {header} is missing"):
        mailbox(kernel_dir())
