# SPDX-License-Identifier: MIT
"""docs/contract.md, cut into sentences."""

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Sentence", "plain", "sentences"]


class Sentence(NamedTuple):
    """A sentence, or one of a row of a table, which begins with the row's first cells.

    :param section: the heading
    :param text: without markup
    """

    section: str
    text: str


def plain(text: str) -> str:
    """Without markup and line breaks."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(text.replace("`", "").split())


def sentences(page: str) -> Iterator[Sentence]:
    """All of them, from the first heading of the second level on."""
    page = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        for block in re.split(r"\n\s*\n|\n(?=- |\|)", "\n" + body):
            text = plain(re.sub(r"^- ", "", block.strip()))
            if text.startswith("|"):
                yield from (Sentence(heading, each) for each in _row(text, body))
            elif text:
                yield from (Sentence(heading, each) for each in _split(text))


def _split(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+(?=[A-Z/])", text)


def _row(text: str, body: str) -> Iterator[str]:
    cells = [cell.strip() for cell in text.strip("|").split("|")]
    first = next(line for line in body.splitlines() if line.startswith("|"))
    if set(text) <= set("|- ") or text == plain(first):
        return
    *head, last = cells
    for sentence in _split(last):
        yield f"{', '.join(head)}: {sentence}"
