# SPDX-License-Identifier: MIT
"""What the documentation points at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "kernel/README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_tests(page: Path) -> None:
    """The tables of reviewers' questions and of invariants live by these."""
    named = re.findall(r"\b(test_\w+\.py)(?:::(\w+))?", page.read_text())
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    missing = [
        f"{file}::{test}"
        for file, test in named
        if file not in sources or (test and f"def {test}(" not in sources[file])
    ]
    assert missing == []


def test_the_manual_page_has_the_reasons_of_the_contract() -> None:
    """Those that a reader would take for a kernel without the feature, or for a mistake of his own."""
    page = (ROOT / "docs/man/map_shared_pt.2").read_text()
    errors = page[page.index(".SH ERRORS") : page.index(".SH FILES")]
    (mprotect,) = re.findall(r"^EACCES\tmprotect\tT{\n(.*?)^T}", errors, re.DOTALL | re.MULTILINE)
    assert "executable" in mprotect
    assert "PR_SET_MDWE" in mprotect
    unsupported = re.findall(r"^EOPNOTSUPP\tmmap\tT{\n(.*?)^T}", errors, re.DOTALL | re.MULTILINE)
    assert any("MAP_FIXED_NOREPLACE" in row and "MAP_SHARED_VALIDATE" in row for row in unsupported)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_installed_from_an_index(page: Path) -> None:
    """The package is in none: a name would install nothing, or somebody else's package."""
    assert re.findall(r"pip install (?:-\S+ )*['\"]?ptshare\b.*", page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_places(page: Path) -> None:
    """Paths of the repository in backticks."""
    named = re.findall(
        r"`((?:src|tests|docs|kernel/src|kernel/config|bench|scripts)/[\w./-]+)`", page.read_text()
    )
    bases = (ROOT, ROOT / "kernel")
    assert [name for name in named if not any((base / name).exists() for base in bases)] == []
