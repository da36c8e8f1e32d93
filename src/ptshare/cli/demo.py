# SPDX-License-Identifier: MIT
"""``ptshare demo``."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TextIO

from ptshare.demo import report, session, signals
from ptshare.demo.errors import CannotRunError, ProcessFailedError
from ptshare.demo.measure import Run
from ptshare.sizes import format_bytes, parse_bytes

__all__ = ["EPILOG", "add_options", "add_parser", "run", "wants_colour"]

EPILOG = "Exit status: 0 sharing was proven, 1 it was not, 2 the demo cannot run here."

#: More would need a crew of many crews: a process holds two descriptors for each.
_MAX_PROCESSES = 400


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="show what sharing page tables saves on the running kernel",
        description="Processes map a file on ext4 and one on tmpfs and touch every page, first with ordinary "
        "page tables, then with shared ones.",
        epilog=EPILOG,
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--processes", type=_processes, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--size", type=_size, default="1G", help="of the file, such as 512M; default: %(default)s"
    )
    parser.add_argument(
        "--file", type=Path, metavar="PATH", help="map a file of your own, opened for reading only, instead"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON and nothing else")


def run(args: argparse.Namespace) -> int:
    """Run the demo and return its exit status."""
    signals.unwind()
    screen = _Screen(quiet=args.json)
    try:
        _, size = session.check(args.size, args.processes, args.file)
        screen.say(
            f"Linux {os.uname().release}: {args.processes} processes map {format_bytes(size)} "
            f"and touch every page\n\n{report.HEADER}"
        )
        results = session.run(args.size, args.processes, args.file, screen.show)
    except CannotRunError as error:
        return _fail(str(error), 2)
    except ProcessFailedError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    if args.json:
        print(json.dumps(report.as_json(results), indent=2))
    else:
        screen.conclude(results)
    return 0 if results.proven else 1


def wants_colour(stream: TextIO) -> bool:
    """On a terminal, unless NO_COLOR is set; FORCE_COLOR says that a terminal is at the other end."""
    if "NO_COLOR" in os.environ:
        return False
    return stream.isatty() or "FORCE_COLOR" in os.environ


class _Screen:
    """Prints what comes, for people; colour on a terminal only."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._colour = wants_colour(sys.stdout)
        self._lines: list[str] = []

    def say(self, text: str, colour: str = "") -> None:
        if not self._quiet:
            print(f"\033[{colour}m{text}\033[0m" if colour and self._colour else text, flush=True)

    def show(self, run: Run, ordinary: Run | None) -> None:
        self.say(report.row(run), "32" if ordinary else "")
        if ordinary:
            self.say(report.comparison(ordinary, run), "1")
            self._lines += report.use_lines(run)

    def conclude(self, results: report.Results) -> None:
        self.say("")
        for line in self._lines:
            self.say(line)
        self.say(f"\n{report.arithmetic()}\n")
        if results.proven:
            self.say("Proven by tables and faults: the page tables were shared.", "1;32")
        for words in results.shortcomings:
            self.say(f"NOT PROVEN: {words}", "1;31")


def _fail(message: str, status: int) -> int:
    print(f"ptshare demo: {message}", file=sys.stderr)
    return status


def _size(text: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 < size < 1 << 62:
        raise argparse.ArgumentTypeError(f"not a size that can be mapped: {text!r}")
    return size


def _processes(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 2 <= number <= _MAX_PROCESSES:
        raise argparse.ArgumentTypeError(f"must be from 2 to {_MAX_PROCESSES}, not {text!r}")
    return number
