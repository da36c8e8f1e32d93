# SPDX-License-Identifier: MIT
"""``ptshare top``."""

import argparse
import os
import sys

from ptshare.cli._scope import add_scope

__all__ = ["add_parser", "run"]

_USAGE = 2


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``top``."""
    parser = subparsers.add_parser(
        "top",
        help="page tables of this host, live: objects, processes, growth, faults",
        description="Shows in the whole terminal what ptshare audit tells, again and again: which files and "
        "processes page tables are for, how they grow, and page faults. Changes nothing; works on any "
        "kernel; as root it sees all processes. Press F1 for the keys.",
        epilog="Exit status: 0; 2 usage, no terminal or a dumb one, or textual is not installed; 143 after "
        "SIGTERM, 129 after SIGHUP. See docs/top.md.",
    )
    parser.add_argument(
        "--delay",
        type=_delay,
        default=2.0,
        metavar="SECONDS",
        help="from the end of an audit to the beginning of the next, at least 0.5; default: 2",
    )
    add_scope(parser)


def run(args: argparse.Namespace) -> int:
    """Show it and return the exit status."""
    # textual reads from the first and writes to the last.
    for name, stream in (("input", sys.stdin), ("output", sys.stdout), ("error", sys.stderr)):
        if stream is None or not stream.isatty():
            return _fail(f"standard {name} is not a terminal; for files and pipes: ptshare audit --watch 2")
    if os.environ.get("TERM") == "dumb":
        return _fail("this terminal (TERM=dumb) has one line only; try ptshare audit --watch 2")
    try:
        try:
            from ptshare.top.app import Top
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("textual", "rich"):
                raise
            return _fail(f"{error.name} is not installed; in a checkout of ptshare: pip install '.[top]'")
        from ptshare.audit.collect import Scope

        app = Top(Scope(args.pid, args.user, args.cgroup, args.commands), args.delay)
        status = app.run()
    except KeyboardInterrupt:  # before there was anything to be seen
        return 130
    return app.return_code or 0 if status is None else status


def _fail(message: str) -> int:
    print(f"ptshare top: {message}", file=sys.stderr)
    return _USAGE


def _delay(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.5 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(
            f"wanted a number of seconds from 0.5 to 86400, a day, found {text!r}"
        )
    return seconds
