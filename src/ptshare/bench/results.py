# SPDX-License-Identifier: MIT
"""What was measured, and where."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ptshare.bench.locks import Lock
from ptshare.bench.runs import Run

__all__ = ["Result", "Results", "figures"]


@dataclass(frozen=True)
class Result:
    """A run and its figures: name -> value. A name ends with its unit, ``_ns`` or ``_kib``, if it has one.

    :param locks: that were waited for most, the whole run long; of a kernel that counts it
    """

    run: Run
    figures: dict[str, float]
    locks: tuple[Lock, ...] = ()


@dataclass(frozen=True)
class Results:
    """All results of one guest.

    :param where: kernel, processors, clock, date: a word each -> what it was
    """

    where: dict[str, str] = field(default_factory=dict)
    all: tuple[Result, ...] = ()

    def of(self, question: str, **fields: Any) -> list[Result]:
        """Those of a question whose runs have these values, in the order in which they were measured."""
        return [
            result
            for result in self.all
            if result.run.question == question
            and all(getattr(result.run, name) == value for name, value in fields.items())
        ]

    def as_json(self) -> str:
        """For a file."""
        data = {"where": self.where, "results": [asdict(result) for result in self.all]}
        return json.dumps(data, indent=1) + "\n"


def figures(lines: Iterable[str]) -> dict[str, float]:
    """The workload's output: a name and a number in each line.

    :raises ValueError: it is something else
    """
    found = {}
    for line in lines:
        name, value = line.split()
        found[name] = float(value)
    if not found:
        raise ValueError("the workload printed nothing")
    return found
