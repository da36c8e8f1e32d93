# SPDX-License-Identifier: MIT
"""docs/spec-coverage.md has each sentence of docs/contract.md, and no name that does not exist."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from contract_sentences import Sentence, plain, sentences

ROOT = Path(__file__).parents[3]
CONTRACT = ROOT / "docs/contract.md"
TABLE = ROOT / "docs/spec-coverage.md"
#: What is missing is not there to be stated.
LEFT_OUT = {"Not there yet"}
#: Sentences that nothing holds the kernel to.
NO_TEST_YET: set[str] = set()


class Row(NamedTuple):
    """A row of the table.

    :param begins: the first words of the sentence
    """

    section: str
    begins: str
    rules: str
    tests: str


def rows(page: str) -> list[Row]:
    found = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        for line in [line for line in body.splitlines() if line.startswith("|")][2:]:
            begins, rules, tests = (cell.strip() for cell in line.strip("|").split("|"))
            found.append(Row(heading, begins, rules, tests))
    return found


def wrong(contract: list[Sentence], table: list[Row]) -> list[str]:
    """Sentences without a row, and rows without a sentence."""
    found = []
    contract = [each for each in contract if each.section not in LEFT_OUT]
    for section, text in contract:
        fitting = [row for row in table if row.section == section and text.startswith(row.begins)]
        if len(fitting) != 1:
            found.append(f"{len(fitting)} rows for: {section}: {text}")
    for row in table:
        fits = [text for section, text in contract if section == row.section and text.startswith(row.begins)]
        if len(fits) != 1:
            found.append(f"{len(fits)} sentences for the row: {row.section}: {row.begins}")
    return found


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def exists(name: str) -> bool:
    """Is there such a rule of the model, or such a test?"""
    module, *parts = name.split(".")
    if module.startswith("test_"):
        # A kernel without the feature is any other: it is looked at where the unit tests run.
        places = [ROOT / f"tests/{kind}/{module}.py" for kind in ("guest", "unit")]
        return any(path.exists() and parts[0] in functions(path) for path in places)
    try:
        found = importlib.import_module(f"ptshare.spec.{module}")
        for part in parts:
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True


def test_each_sentence_is_in_the_table() -> None:
    contract = list(sentences(CONTRACT.read_text()))
    assert wrong(contract, rows(TABLE.read_text())) == []
    assert len(contract) > 90


@pytest.mark.parametrize("row", rows(TABLE.read_text()), ids=lambda row: row.begins)
def test_what_a_row_names_exists(row: Row) -> None:
    rules, tests = (re.findall(r"`([^`]+)`", cell) for cell in (row.rules, row.tests))
    assert [name for name in rules + tests if not exists(name)] == []
    assert all(name.startswith("test_") for name in tests)
    assert not any(name.startswith("test_") for name in rules)
    assert (row.begins in NO_TEST_YET) is not bool(tests)
    assert tests or row.tests == "no test yet"


def test_a_change_of_the_contract_is_noticed() -> None:
    contract = CONTRACT.read_text()
    table = rows(TABLE.read_text())
    for old, new in (
        ("It works page by page.", "It works page by page. It also does something new."),
        ("With the last guest the tables go.", "The tables never go."),
        ("| msync(2), mincore(2) | as ever |", "| msync(2), mincore(2) | as ever |\n| mlock3(2) | as ever |"),
        ("No page tables are copied for it.", ""),
        ("| `EINVAL` | madvise | `MADV_HUGEPAGE`", "| `EPERM` | madvise | `MADV_HUGEPAGE`"),
    ):
        assert contract.count(old) == 1
        assert wrong(list(sentences(contract.replace(old, new))), table) != []


def test_sentences() -> None:
    page = "# x\nnot this.\n## 1. One\n\nFirst `a`. Second\nline. See [x](y.md).\n\n- Third: e; f. g.\n\n"
    page += "```c\nno();\n```\n\n| a | b |\n|---|---|\n| `r` | Four. Five |\n"
    assert [text for _, text in sentences(page)] == [
        "First a.",
        "Second line.",
        "See x.",
        "Third: e; f. g.",
        "r: Four.",
        "r: Five",
    ]
    assert plain("a\n `b`") == "a b"
    assert not exists("advice.nothing")
    assert not exists("nothing.at_all")
    assert not exists("test_mmap.test_nothing")
