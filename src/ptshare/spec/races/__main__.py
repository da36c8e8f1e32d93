# SPDX-License-Identifier: MIT
"""``python -m ptshare.spec.races``: tries a race, with or without a mistake, and prints what comes of it."""

import argparse
import sys
from collections.abc import Sequence

from ptshare._output import guarded
from ptshare.spec.races import show
from ptshare.spec.races.catalogue import MISTAKES, RACES, run

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all orders hold, or the mistake was found; 1 otherwise; 2 usage, or no output.

    :param arguments: those of the command line, if not the process's own
    """
    parser = argparse.ArgumentParser(
        prog="python -m ptshare.spec.races",
        description="Try all orders of a race's steps. Without arguments: the list of them.",
    )
    parser.add_argument("race", nargs="?", choices=sorted(RACES), metavar="RACE", help="its name in the list")
    parser.add_argument(
        "--mutant", default="", choices=sorted(MISTAKES), metavar="NAME", help="with this mistake"
    )
    parser.add_argument("--table", action="store_true", help="try all, print the tables of docs/races.md")
    options = parser.parse_args(arguments)
    if options.table:
        print(show.table())
        return 0
    race = options.race or (MISTAKES[options.mutant].races[0] if options.mutant else None)
    if race is None:
        print(show.listing())
        return 0
    found = run(race, options.mutant)
    print(show.result(race, options.mutant, found))
    return (found.bad is None) if options.mutant else (found.bad is not None)


if __name__ == "__main__":
    sys.exit(guarded("python -m ptshare.spec.races", main))
