# SPDX-License-Identifier: MIT
"""``ptshare run``."""

import argparse
import json
import sys
from typing import TextIO

from ptshare.preload import NotBuiltError
from ptshare.sizes import parse_bytes
from ptshare.support import granule, probe

__all__ = ["add_parser", "run"]


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
        help="at the end, tell what was shared, by whom, and what it saved; default: on standard error "
        "(write --report=FILE)",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="do not say that the kernel cannot share")
    parser.add_argument("argv", nargs="+", metavar="COMMAND", help="the program, and its arguments")


def run(args: argparse.Namespace) -> int:
    """Run the program and return its exit status, or do not return."""
    from ptshare.run import launch

    options = launch.Options(args.min_size, tuple(args.only))
    reason = probe().reason
    try:
        if args.report is None and not args.json:
            if reason is not None and not args.quiet:
                print(f"ptshare run: page tables stay ordinary: {reason}", file=sys.stderr, flush=True)
            launch.execute(args.argv, options)
        if args.report in (None, "-"):
            return _watched(args, options, reason, sys.stderr)
        try:
            file = open(args.report, "w", encoding="utf-8")  # noqa: SIM115  # its errors are told apart
        except OSError as error:
            print(f"ptshare run: cannot write the report to {args.report}: {error.strerror}", file=sys.stderr)
            return 2
        with file:
            return _watched(args, options, reason, file)
    except NotBuiltError as error:
        print(f"ptshare run: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ptshare run: {args.argv[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


def _watched(args: argparse.Namespace, options: "object", reason: str | None, file: TextIO) -> int:
    from ptshare.run import launch, report

    assert isinstance(options, launch.Options)
    ended = launch.watch(args.argv, options)
    if args.json:
        print(json.dumps(report.as_json(ended, reason), indent=2), file=file)
    else:
        for line in report.lines(ended, reason):
            print(line, file=file)
    return ended.status


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
