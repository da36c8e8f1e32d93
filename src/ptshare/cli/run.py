# SPDX-License-Identifier: MIT
"""``ptshare run``."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from ptshare.preload import NotBuiltError
from ptshare.sizes import parse_bytes
from ptshare.support import granule, probe

if TYPE_CHECKING:
    from ptshare.run.launch import Ended, Options

__all__ = ["add_parser", "run", "spelled_out"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``run``."""
    parser = subparsers.add_parser(
        "run",
        help="run an unmodified program so that its large shared mappings share their page tables",
        usage="ptshare run [options] -- COMMAND [ARGUMENT ...]",
        description="Runs a program, and all that it starts, with a library that has its large shared "
        "mappings (files, memfd, shared anonymous memory, System V segments where it may) made with "
        "MAP_SHARED_PT. What the kernel refuses is mapped as ever.",
        epilog="Exit status: the program's, 128+N if signal N ended it; 127 it is not found, 126 it cannot "
        "be executed, 2 usage. See docs/run.md.",
    )
    parser.add_argument(
        "--min-size",
        type=_size,
        default=8 << 20,
        metavar="SIZE",
        help="leave smaller mappings alone, such as 64M or 1G; default: 8M",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="GLOB",
        help="share only mappings of what /proc/PID/maps calls so; 'anonymous' is shared anonymous memory, "
        "'sysv' System V segments; may be given several times",
    )
    parser.add_argument(
        "--report",
        nargs="?",
        const="-",
        metavar="FILE",
        help="at the end, tell what was shared, by whom, and what it saved; default: on standard error. "
        "A file only as --report=FILE",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="do not say that the kernel cannot share")
    parser.add_argument("argv", nargs="+", metavar="COMMAND", help="the program, and its arguments")


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """``--report`` as ``--report=-``: argparse would take the word after it, the program, for a file to
    write.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    for index, word in enumerate(words[:end]):
        # argparse takes an option's beginning for it.
        if len(word) < 3 or not "--report".startswith(word):
            continue
        words[index] = "--report=-"
        if index + 1 < end < len(words) and not words[index + 1].startswith("-"):
            file = words[index + 1]
            raise SystemExit(
                _fail(f"wanted -- or an option after --report, found {file!r}; a file is --report={file}", 2)
            )
    return words


def run(args: argparse.Namespace) -> int:
    """Run the program and return its exit status, or do not return."""
    from ptshare.run import launch

    if not args.argv[0]:
        return _fail("wanted a program to run, found an empty word; name one after --", 127)
    options = launch.Options(args.min_size, tuple(args.only))
    reason = probe().reason
    try:
        if args.report is None and not args.json:
            if reason is not None and not args.quiet:
                print(f"ptshare run: page tables stay ordinary: {reason}", file=sys.stderr, flush=True)
            launch.execute(args.argv, options)
        if args.report in (None, "-"):
            ended = launch.watch(args.argv, options)
            _report(args, ended, reason, sys.stderr)
            return ended.status
    except NotBuiltError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _not_run(args, error)
    return _with_file(args, options, reason)


def _with_file(args: argparse.Namespace, options: "Options", reason: str | None) -> int:
    """Run it, with the report in a file: whatever comes of that, the status is the program's."""
    from ptshare.run import launch

    unwritten = f"cannot write the report to {args.report!r}"
    try:
        file = open(args.report, "w", encoding="utf-8")  # noqa: SIM115  # its errors are told apart
    except OSError as error:
        return _fail(f"{unwritten}: {error.strerror}; name a file that can be written", 2)
    try:
        ended = launch.watch(args.argv, options)
    except NotBuiltError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _not_run(args, error)
    try:
        with file:
            _report(args, ended, reason, file)
    except OSError as error:
        _fail(f"{unwritten}: {error.strerror}; the program ended with {ended.status}", 2)
    return ended.status


def _report(args: argparse.Namespace, ended: "Ended", reason: str | None, file: TextIO) -> None:
    from ptshare.run import report

    if args.json:
        print(json.dumps(report.as_json(ended, reason), indent=2), file=file)
    else:
        for line in report.lines(ended, reason):
            print(line, file=file)


def _not_run(args: argparse.Namespace, error: OSError) -> int:
    return _fail(f"{args.argv[0]}: {error.strerror}", 127 if isinstance(error, FileNotFoundError) else 126)


def _fail(message: str, status: int) -> int:
    print(f"ptshare run: {message}", file=sys.stderr)
    return status


def _size(text: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if size < granule():
        raise argparse.ArgumentTypeError(
            f"at least the granule, {granule()} bytes, is what can be shared, not {text!r}"
        )
    return size
