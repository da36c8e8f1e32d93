# SPDX-License-Identifier: MIT
"""What is read from the checkers' output, and what of it is accepted."""

from pathlib import Path

import pytest

from lab_fixtures import FakePath
from ptshare.lab import cache, check
from ptshare.lab.errors import LabError
from ptshare.lab.kernel_dir import kernel_dir

PATCH = """From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A. Developer <a@example.org>
Subject: [PATCH] mm: locks

Why.
---
 mm/a.c | 2 +-
 mm/ptshare/b.c | 3 +++

diff --git a/mm/a.c b/mm/a.c
index 1234567..89abcde 100644
--- a/mm/a.c
+++ b/mm/a.c
@@ -10,3 +10,3 @@ int a;
 first
-gone
+	spinlock_t *ptl;
 last
@@ -50,2 +50,3 @@ int a;
 fifty
+	spinlock_t lock;
 fifty two
diff --git a/mm/ptshare/b.c b/mm/ptshare/b.c
new file mode 100644
index 000000000000..1111111
--- /dev/null
+++ b/mm/ptshare/b.c
@@ -0,0 +1,3 @@
+	int i;
+	VMA_ITERATOR(vmi, mm, 0);
+	work();
--\x20
2.39.0
"""


def line_of(text: str) -> int:
    return PATCH.splitlines().index(text) + 1


def findings(*complaints: tuple[int, str]) -> list[check.Finding]:
    output = "".join(f"/tmp/x/1.patch:{line}: {complaint}\n" for line, complaint in complaints)
    return check.checkpatch_findings("noise\n" + output, [PATCH])


def test_places_are_those_in_the_patched_files() -> None:
    found = findings(
        (line_of("Why."), "WARNING:COMMIT_LOG_LONG_LINE: too long"),
        (line_of("+	spinlock_t lock;"), "CHECK:UNCOMMENTED_DEFINITION: without comment"),
        (line_of("+	work();"), "ERROR:SPACING: space"),
    )
    assert [str(finding) for finding in found] == [
        f"patch 1, line {line_of('Why.')}: WARNING:COMMIT_LOG_LONG_LINE: too long",
        "mm/a.c:51: CHECK:UNCOMMENTED_DEFINITION: without comment",
        "mm/ptshare/b.c:3: ERROR:SPACING: space",
    ]
    assert not any(finding.accepted for finding in found)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (" mm/ptshare/b.c | 3 +++", "WARNING:FILE_PATH_CHANGES: does MAINTAINERS need updating?"),
        ("+	spinlock_t *ptl;", "CHECK:UNCOMMENTED_DEFINITION: without comment"),
        ("+	VMA_ITERATOR(vmi, mm, 0);", "WARNING:LINE_SPACING: Missing a blank line after declarations"),
    ],
)
def test_accepted(line: str, complaint: str) -> None:
    [found] = findings((line_of(line), complaint))
    assert found.accepted
    assert found.accepted in str(found)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("+	spinlock_t *ptl;", "CHECK:LINE_SPACING: multiple blank lines"),
        ("+	work();", "WARNING:LINE_SPACING: Missing a blank line after declarations"),
        ("+	work();", "CHECK:PARENTHESIS_ALIGNMENT: Alignment should match open parenthesis"),
    ],
)
def test_not_accepted(line: str, complaint: str) -> None:
    [found] = findings((line_of(line), complaint))
    assert not found.accepted


def test_sparse_on_our_files_alone() -> None:
    output = """  CC      mm/ptshare/fault.o
  CHECK   /src/linux/mm/ptshare/fault.c
/src/linux/mm/ptshare/fault.c:12:5: warning: context imbalance
../linux/mm/ptshare/fault.c:12:5: warning: context imbalance
/src/linux/mm/other/ptshare/fault.c:3:1: warning: of another file
/src/linux/include/linux/mm.h:7:1: error: of the rest of the kernel
include/linux/ptshare.h:9:2: error: bad
"""
    found = check.sparse_findings(output, ["mm/ptshare/fault.c", "include/linux/ptshare.h"])
    assert [str(finding) for finding in found] == [
        "mm/ptshare/fault.c:12: warning: context imbalance",
        "include/linux/ptshare.h:9: error: bad",
    ]


def test_sparse_accepted() -> None:
    output = "".join(
        f"/src/linux/mm/ptshare/mmap.c:{line}:1: warning: context imbalance in '{function}' - unlock\n"
        for line, function in enumerate(("ptshare_carry_pmd", "ptshare_other"), 1)
    )
    accepted, other = check.sparse_findings(output, ["mm/ptshare/mmap.c"])
    assert accepted.accepted
    assert not other.accepted


@pytest.fixture
def source(kernel: Path) -> Path:
    """A source whose version is known, and a series of one patch."""
    sources = cache.directory("source")
    (sources / "6.12.1-1/scripts").mkdir(parents=True)
    (sources / "current").write_text("6.12.1-1\n")
    (kernel / "patches/0001-locks.patch").write_text(PATCH)
    return sources / "6.12.1-1"


def test_checkpatch_gets_each_patch(source: Path, fake_path: FakePath) -> None:
    fake_path.link("sh", "grep")
    fake_path.add(
        "perl",
        f'[ "$1" = {source}/scripts/checkpatch.pl ] && [ "$2" = --strict ] || exit 2\n'
        "for last; do :; done\n"
        'grep -q "PATCH 1/1. mm: locks" "$last" && echo "$last:5: ERROR:X: wrong"; exit 1',
    )
    [found] = check.checkpatch(kernel_dir(), lambda _: None)
    assert str(found) == "patch 1, line 5: ERROR:X: wrong"


@pytest.mark.usefixtures("source")
def test_a_checkpatch_that_does_not_run(fake_path: FakePath) -> None:
    fake_path.add("perl", "echo no such module >&2; exit 2")
    with pytest.raises(LabError, match=r"checkpatch\.pl does not run: no such module"):
        check.checkpatch(kernel_dir(), lambda _: None)


@pytest.mark.usefixtures("source", "fake_path")
def test_a_checker_that_is_not_there() -> None:
    with pytest.raises(LabError, match="missing: perl; install with: apt-get install perl"):
        check.checkpatch(kernel_dir(), lambda _: None)
    with pytest.raises(LabError, match=r"apt-get install .*sparse"):
        check.sparse(kernel_dir(), "base", lambda _: None)
