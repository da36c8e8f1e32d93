# SPDX-License-Identifier: MIT
"""What a process can do: each operation is a function of the process and of the numbers that were drawn.

An operation returns ``False`` if there was nothing to do it on, or a page was in use. It raises
:class:`ptshare.stress.worker.Wrong` for what must not be, and any OSError that it did not expect is wrong
too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptshare.stress.sequence import Draw
    from ptshare.stress.worker import Worker

__all__ = ["Kind", "kinds", "operation"]

Function = Callable[["Worker", "Draw"], bool | None]


@dataclass(frozen=True)
class Kind:
    """A kind of operation.

    :param name: what is done, a dot, and how
    :param weight: how often it is drawn, in proportion
    :param needs: features without which it cannot be done; see :class:`ptshare.stress.setup.Setup`
    :param in_child: a forked child can do it, too
    """

    name: str
    weight: float
    needs: frozenset[str]
    in_child: bool
    function: Function


_KINDS: list[Kind] = []


def operation(name: str, weight: float, *needs: str, in_child: bool = True) -> Callable[[Function], Function]:
    """Register a function as an operation; see :class:`Kind`."""

    def register(function: Function) -> Function:
        _KINDS.append(Kind(name, weight, frozenset(needs), in_child, function))
        return function

    return register


@functools.cache
def kinds() -> list[Kind]:
    """All kinds of operations, by name: in the same order in each process, whatever it imported first."""
    from ptshare.stress.operations import (  # noqa: F401
        accesses,
        advice,
        file_changes,
        machine,
        mappings,
        processes,
        protection,
        storm,
    )

    return sorted(_KINDS, key=lambda kind: kind.name)
