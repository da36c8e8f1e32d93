# SPDX-License-Identifier: MIT
"""The reference that pdoc makes of the docstrings (docs/python.md) has each public name, and what it says."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ptshare


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("reference")
    command = [
        sys.executable,
        "-m",
        "pdoc",
        "-d",
        "restructuredtext",
        "--no-show-source",
        "-o",
        str(directory),
        "ptshare",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Warn" not in result.stderr, result.stderr
    text = Path(directory, "ptshare.html").read_text()
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def public(thing: object) -> list[str]:
    return [name for name in vars(thing) if not name.startswith("_")]


@pytest.mark.parametrize("name", ptshare.__all__)
def test_each_public_name(page: str, name: str) -> None:
    thing = getattr(ptshare, name)
    assert thing.__doc__
    assert thing.__doc__.split("\n")[0].split("``")[0].strip()[:40] in page
    if isinstance(thing, type):
        for member in public(thing):
            assert re.search(rf"\b{member}\b", page), f"{name}.{member}"


def test_parameters_and_errors_are_set_apart(page: str) -> None:
    assert ":param" not in page
    assert ":raises" not in page
    for text in (
        "Parameters",
        "Raises",
        "MADV_POPULATE_READ; Linux 5.14",
        "what follows MADV_, in small letters",
    ):
        assert text in " ".join(page.split())
