# SPDX-License-Identifier: MIT
"""New files and patches go into the tree, the source stays as it is, and only what changed is touched."""

import os
import re
from pathlib import Path

import pytest

from ptshare.lab.apply import apply, touched_files
from ptshare.lab.errors import LabError
from ptshare.lab.fetch import Source
from ptshare.lab.kernel_dir import kernel_dir
from ptshare.lab.series import first

MEMORY = "one\ntwo\nthree\nfour\n"
PATCH = """From 0000 Mon Sep 17 00:00:00 2001
From: A. Developer <a@example.org>
Subject: [PATCH] mm: say drei

---
 mm/memory.c | 2 +-

diff --git a/mm/memory.c b/mm/memory.c
--- a/mm/memory.c
+++ b/mm/memory.c
@@ -1,4 +1,4 @@
 one
 two
-three
+drei
 four
--
2.39
"""


@pytest.fixture
def source(cache_directory: Path) -> Source:
    path = cache_directory / "source/6.12.1-1"
    (path / "mm").mkdir(parents=True)
    (path / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\n")
    (path / "mm/memory.c").write_text(MEMORY)
    (path / "mm/mmap.c").write_text("untouched\n")
    return Source(path, "6.12.1-1")


@pytest.mark.usefixtures("kernel")
def test_without_a_series_the_tree_is_the_source(source: Source) -> None:
    tree = apply(source, kernel_dir())
    assert (tree / "mm/memory.c").read_text() == MEMORY


def test_new_files_and_patches(source: Source, kernel: Path) -> None:
    (kernel / "src/mm").mkdir()
    (kernel / "src/mm/ptshare.c").write_text("new\n")
    (kernel / "patches/0001-drei.patch").write_text(PATCH)
    tree = apply(source, kernel_dir())
    assert (tree / "mm/ptshare.c").read_text() == "new\n"
    assert (tree / "mm/memory.c").read_text() == MEMORY.replace("three", "drei")
    assert (source.path / "mm/memory.c").read_text() == MEMORY
    assert not (source.path / "mm/ptshare.c").exists()


def test_only_what_changed_is_touched(source: Source, kernel: Path) -> None:
    (kernel / "src/mm").mkdir()
    (kernel / "src/mm/ptshare.c").write_text("new\n")
    (kernel / "patches/0001-drei.patch").write_text(PATCH)
    tree = apply(source, kernel_dir())
    for name in ("mm/memory.c", "mm/ptshare.c"):
        os.utime(tree / name, (1, 1))
    (kernel / "src/mm/ptshare.c").write_text("newer\n")
    apply(source, kernel_dir())
    assert (tree / "mm/memory.c").stat().st_mtime == 1
    assert (tree / "mm/ptshare.c").stat().st_mtime > 1


def test_what_leaves_the_series_is_undone(source: Source, kernel: Path) -> None:
    (kernel / "src/mm").mkdir()
    (kernel / "src/mm/ptshare.c").write_text("new\n")
    (kernel / "patches/0001-drei.patch").write_text(PATCH)
    tree = apply(source, kernel_dir())
    (kernel / "src/mm/ptshare.c").unlink()
    (kernel / "patches/0001-drei.patch").unlink()
    apply(source, kernel_dir())
    assert not (tree / "mm/ptshare.c").exists()
    assert (tree / "mm/memory.c").read_text() == MEMORY


def test_a_part_of_the_series_has_a_tree_of_its_own(source: Source, kernel: Path) -> None:
    (kernel / "patches/0001-drei.patch").write_text(PATCH)
    whole = apply(source, kernel_dir())
    part = apply(source, first(kernel_dir(), 0))
    assert (part / "mm/memory.c").read_text() == MEMORY
    assert apply(source, first(kernel_dir(), 1)) == part
    assert (part / "mm/memory.c").read_text() == MEMORY.replace("three", "drei")
    assert apply(source, first(kernel_dir(), 0)) == part
    assert (part / "mm/memory.c").read_text() == MEMORY
    assert (whole / "mm/memory.c").read_text() == MEMORY.replace("three", "drei")


def test_a_patch_that_does_not_apply(source: Source, kernel: Path) -> None:
    tree = apply(source, kernel_dir())
    (kernel / "src/new.c").write_text("new\n")
    (kernel / "patches/0001-drei.patch").write_text(PATCH)
    (kernel / "patches/0002-vier.patch").write_text(PATCH.replace("drei", "vier"))
    message = "0002-vier.patch does not apply to Linux 6.12.1 (mm/memory.c, hunk 1 at line 1)"
    with pytest.raises(LabError, match=re.escape(message)):
        apply(source, kernel_dir())
    assert (tree / "mm/memory.c").read_text() == MEMORY
    assert not (tree / "new.c").exists()


def test_a_patch_to_a_file_that_the_source_lacks(source: Source, kernel: Path) -> None:
    (kernel / "patches/0001-gone.patch").write_text(PATCH.replace("memory.c", "gone.c"))
    with pytest.raises(LabError, match=r"0001-gone\.patch does not apply .*not in this source"):
        apply(source, kernel_dir())


def test_touched_files() -> None:
    added = "--- /dev/null\n+++ b/mm/new.c\n@@ -0,0 +1 @@\n+x\n"
    assert touched_files(PATCH + added) == {"mm/memory.c", "mm/new.c"}
