# SPDX-License-Identifier: MIT
"""Names in words for people: a file's name may hold anything, a terminal's orders, too."""

import os

from ptshare.audit.model import MappedObject

__all__ = ["command_of", "path_name", "plain", "short"]


def plain(text: str) -> str:
    r"""The text in one line, with what cannot be printed written as \x1b or ``\u2028``."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "replace").decode()
        for character in text
    )


def path_name(path: str) -> str:
    r"""A path of the command line in one line; bytes that are no UTF-8 are written as \xff."""
    return plain(os.fsencode(path).decode("utf-8", "backslashreplace"))


def short(text: str, most: int) -> str:
    """The text, or its beginning and end: of a path both tell something.

    :param most: characters
    """
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def command_of(item: MappedObject) -> str:
    """The name of the processes that spend most on an object."""
    if not item.commands:
        return "nobody"
    command, _ = max(item.commands.items(), key=lambda entry: (entry[1][1], entry[1][0]))
    return plain(command)
