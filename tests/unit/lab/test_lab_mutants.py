# SPDX-License-Identifier: MIT
"""Kernels with a deliberate mistake: read, kept apart from the others in the cache, and what pytest said."""

import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ptshare.cli import main
from ptshare.lab import build_image, cache, fetch, image, mutants
from ptshare.lab.apply import apply, touched_files
from ptshare.lab.errors import LabError
from ptshare.lab.fetch import Source
from ptshare.lab.kernel_dir import kernel_dir
from ptshare.lab.mutants import Outcome, all_mutants, find_mutant, mutated, outcome_of, run_tests, table

ROOT = Path(__file__).parents[3]
MISTAKE = """SPDX-License-Identifier: GPL-2.0-only

The page is
not flushed.

Found by: tests/guest/test_a.py::test_b tests/guest/test_c.py
Found by: tests/guest/test_d.py

diff --git a/mm/ptshare.c b/mm/ptshare.c
--- a/mm/ptshare.c
+++ b/mm/ptshare.c
@@ -1,2 +1 @@
 change();
-flush();
"""
START = "tests/guest/test_a.py::test_b "


@pytest.fixture
def mutant(kernel: Path) -> Path:
    """One mutant of a kernel of one file."""
    for name, text in (("src/mm/ptshare.c", "change();\nflush();\n"), ("mutants/no-flush.patch", MISTAKE)):
        (kernel / name).parent.mkdir()
        (kernel / name).write_text(text)
    return kernel / "mutants/no-flush.patch"


def test_what_a_patch_says(mutant: Path) -> None:
    found = find_mutant(kernel_dir(), "no-flush")
    assert found.mistake == "The page is not flushed."
    assert found.tests == (
        "tests/guest/test_a.py::test_b",
        "tests/guest/test_c.py",
        "tests/guest/test_d.py",
    )
    with pytest.raises(LabError, match="unknown mutant 'nope'; there are: no-flush"):
        find_mutant(kernel_dir(), "nope")
    mutant.write_text(MISTAKE.replace("Found by", "Seen by"))
    with pytest.raises(LabError, match=r"no-flush\.patch does not begin with what the mistake is"):
        all_mutants(kernel_dir())


@pytest.mark.usefixtures("mutant")
def test_no_mutant_of_a_part_of_the_series() -> None:
    with pytest.raises(LabError, match="of the whole series"):
        mutated(replace(kernel_dir(), part=0), "no-flush")


@pytest.fixture
def source(cache_directory: Path) -> Source:
    path = cache_directory / "source/6.12.1-1"
    (path / "mm").mkdir(parents=True)
    (path / "mm/memory.c").write_text("one\n")
    (path / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\n")
    return Source(path, "6.12.1-1")


def test_a_tree_of_its_own(source: Source, mutant: Path, cache_directory: Path) -> None:
    base = apply(source, kernel_dir())
    wrong = apply(source, mutated(kernel_dir(), "no-flush"))
    assert wrong == cache_directory / "mutants/tree/6.12.1-1"
    assert (wrong / "mm/ptshare.c").read_text() == "change();\n"
    assert (base / "mm/ptshare.c").read_text() == "change();\nflush();\n"
    assert (mutant.parents[1] / "src/mm/ptshare.c").read_text() == "change();\nflush();\n"
    # The next one begins where the series ends.
    mutant.with_name("other.patch").write_text(MISTAKE.replace("+1 @@", "+1,2 @@") + "+flash();\n")
    apply(source, mutated(kernel_dir(), "other"))
    assert (wrong / "mm/ptshare.c").read_text() == "change();\nflash();\n"


def test_a_mistake_that_does_not_apply(source: Source, mutant: Path) -> None:
    mutant.write_text(MISTAKE.replace("-flush", "-flash"))
    with pytest.raises(LabError, match=r"no-flush\.patch does not apply .*; it needs a rebase"):
        apply(source, mutated(kernel_dir(), "no-flush"))
    (mutant.parents[1] / "patches/0001-wrong.patch").write_text(MISTAKE.replace("-flush", "-flash"))
    with pytest.raises(LabError, match=r"0001-wrong\.patch does not apply .*; the series in .* needs"):
        apply(source, mutated(kernel_dir(), "no-flush"))


@pytest.mark.usefixtures("mutant")
def test_an_image_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant is never taken for the kernel that people use, and pushes none of those out of the cache."""
    (cache.directory("source") / "current").write_text("6.12.1-1\n")
    monkeypatch.setattr(image, "_build", lambda kernel, *_: pytest.fail(f"builds {kernel.mutant!r}"))
    for kernel in (kernel_dir(), mutated(kernel_dir(), "no-flush")):
        version = fetch.current()
        assert version is not None
        directory = cache.directory(f"{kernel.area}images") / f"base-{image._key(version, kernel, 'base')}"
        directory.mkdir()
        (directory / "bzImage").write_bytes(b"kernel")
    base, wrong = build_image(), build_image(mutant="no-flush")
    assert wrong.bzimage.is_relative_to(cache.directory("mutants/images"))
    assert base.bzimage.is_relative_to(cache.directory("images"))
    assert base.bzimage.parent.name != wrong.bzimage.parent.name


@pytest.mark.parametrize(
    ("output", "status", "test", "how"),
    [
        (f"{START}PASSED [ 50%]\ntests/guest/test_c.py::test_d[x y] FAILED [100%]\n", 1, "x y", "failed"),
        (f"{START}ERROR [ 50%]\n", 1, "test_b", "failed"),
        (f"{START}FAILED [ 50%]\nE  the guest was stopped: the time for x\n", 1, "test_b", "hung"),
        (f"collected 2 items\n\n{START}", None, "test_b", "hung"),
        (f"{START}PASSED [ 50%]\n", None, "the boot", "hung"),
        (f"{START}PASSED [100%]\n\n1 passed\n", 0, "", ""),
    ],
)
def test_what_pytest_says(output: str, status: int | None, test: str, how: str) -> None:
    outcome = outcome_of(output, status, 7.0)
    assert test in outcome.test
    assert bool(test) == bool(outcome.test)
    assert (outcome.how, outcome.seconds) == (how, 7.0)


def test_pytest_that_cannot_run_is_no_find() -> None:
    with pytest.raises(LabError, match="ended with 4 and no test failed: ERROR: not found"):
        outcome_of("ERROR: not found", 4, 1.0)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Tests that run here, in the place of a guest."""
    (tmp_path / "tests/guest").mkdir(parents=True)
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    for name in ('config', 'mutant', 'timeout'):\n"
        "        parser.addoption(f'--guest-{name}')\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", Outcome("", "", 0)),
        ("assert request.config.getoption('--guest-mutant') != 'no-flush'", Outcome("test_it", "failed", 0)),
        ("time.sleep(600)", Outcome("test_it", "hung", 0)),
    ],
)
def test_a_run(repository: Path, body: str, expected: Outcome) -> None:
    test = repository / "tests/guest/test_a.py"
    test.write_text(f"import time\n\ndef test_it(request):\n    {body}\n")
    limit = 8.0 if expected.how == "hung" else 60.0
    started = time.monotonic()
    found = run_tests(repository, ["tests/guest/test_a.py"], "no-flush", "base", limit, repository / "log")
    assert time.monotonic() - started < 60
    assert (found.test.rpartition("::")[2], found.how) == (expected.test, expected.how)
    assert subprocess.run(["pgrep", "-f", str(repository)], capture_output=True).returncode == 1


def test_a_table() -> None:
    found = {"a": Outcome("t::b", "failed", 3.4), "b": Outcome("t", "hung", 60), "c": Outcome("", "", 9)}
    text = table(list(found.items()))
    assert text.splitlines()[2:] == [
        "| a | `t::b` | 3 |",
        "| b | `t`, which hung | 60 |",
        "| c | **SURVIVED** | 9 |",
    ]


@pytest.mark.usefixtures("mutant")
def test_one_that_survives_is_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Outcome("t::b", "failed", 3), Outcome("", "", 9)]
    built: list[str] = []
    monkeypatch.setattr("ptshare.lab.build_image", lambda *_, mutant: built.append(mutant))
    monkeypatch.setattr(mutants, "run_tests", lambda *_: found.pop(0))
    assert main(["lab", "mutants"]) == 0
    assert main(["lab", "mutants", "no-flush"]) == 1
    assert built == ["no-flush"] * 2
    assert "| no-flush | **SURVIVED** | 9 |" in capsys.readouterr().out
    assert main(["lab", "mutants", "--list"]) == 0
    assert capsys.readouterr().out == "no-flush: The page is not flushed.\n"


@pytest.mark.usefixtures("mutant")
def test_the_kernel_without_a_mistake_must_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ptshare.lab.build_image", lambda *_, mutant: None)
    monkeypatch.setattr(mutants, "run_tests", lambda *_: Outcome("t::b", "failed", 3))
    assert main(["lab", "mutants", "--control"]) == 2
    assert "the kernel without a mistake fails: t::b failed, after 3 s" in capsys.readouterr().err


# The repository's own


def _after_the_series(name: str) -> str:
    """A file of the kernel after the series, as far as that shows it: blank lines stand for the rest."""
    kernel = kernel_dir()
    if name in kernel.new_files:
        return kernel.new_files[name].read_text()
    patches = [path.read_text() for path in kernel.patches if name in touched_files(path.read_text())]
    assert len(patches) == 1, f"{name} is changed by {len(patches)} patches, which this cannot put together"
    diff = patches[0].partition(f"\ndiff --git a/{name} b/{name}\n")[2].partition("\ndiff --git ")[0]
    lines: list[str] = []
    for hunk in re.split(r"^@@ ", diff.partition("\n-- \n")[0], flags=re.MULTILINE)[1:]:
        head, *body = hunk.splitlines()
        match = re.match(r"-\S+ \+(\d+)", head)
        assert match
        lines += [""] * (int(match[1]) - 1 - len(lines))
        lines += [line[1:] for line in body if not line.startswith("-")]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "kernel/mutants").glob("*.patch"))])
def test_it_applies_and_its_tests_are_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTSHARE_KERNEL_DIR", str(ROOT / "kernel"))
    mutant = find_mutant(kernel_dir(), name)
    for file in touched_files(mutant.patch.read_text()):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(_after_the_series(file))
    result = subprocess.run(
        ["patch", "-p1", "--forward", "--batch", "--fuzz=0", "-r", "-", "-i", str(mutant.patch)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert "offset" not in result.stdout
    for test in mutant.tests:
        file, _, function = test.partition("::")
        assert f"def {function.partition('[')[0] or 'test_'}" in (ROOT / file).read_text()


def test_each_is_in_the_table() -> None:
    text = (ROOT / "docs/mutants.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
    assert rows == [path.stem for path in sorted((ROOT / "kernel/mutants").glob("*.patch"))]
