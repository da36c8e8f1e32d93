# SPDX-License-Identifier: MIT
"""``ptshare lab demo``."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import TextIO

from ptshare.cli import demo
from ptshare.demo import files, session
from ptshare.demo.errors import CannotRunError

__all__ = ["add_parser", "run"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="build the kernel, boot it and run ptshare demo in it",
        description="Builds the kernel unless that is done, and meanwhile measures the problem on this "
        "machine; then boots it and runs ptshare demo on it, with the same options.",
        epilog=demo.EPILOG,
    )
    demo.add_options(parser)
    parser.set_defaults(run_lab=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo in a guest and return its exit status."""
    from ptshare.lab import demo as lab_demo
    from ptshare.lab.terminal import ProgressLine

    # What would fail in the guest fails here, before the kernel is built.
    try:
        size = files.own_size(args.file) if args.file else args.size
        session.check_size(size)
    except CannotRunError as error:
        print(f"ptshare demo: {error}", file=sys.stderr)
        return 2
    # With --json standard output is for the guest's JSON alone.
    words = sys.stderr if args.json else sys.stdout

    def say(text: str) -> None:
        print(f"\r\033[K{text}" if words.isatty() else text, file=words, flush=True)

    image = lab_demo.build_and_measure(ProgressLine(), say)
    if not args.json:
        say(
            "Now on the patched kernel, in a virtual machine. Where that is emulated, compare its times with "
            "each other only."
        )
    result = lab_demo.run_in_guest(
        _options(args),
        image,
        lab_demo.guest_memory(size, args.processes),
        {"FORCE_COLOR": "1"} if demo.wants_colour(sys.stdout) else {},
        _writer(sys.stdout),
        _writer(sys.stderr),
    )
    complaint = result.complaint()
    if complaint:
        print(f"lab: {complaint}", file=sys.stderr)
    return result.exit_status


def _options(args: argparse.Namespace) -> list[str]:
    """The options for the guest's ``ptshare demo``."""
    options = ["--processes", str(args.processes), "--size", str(args.size)]
    if args.file:
        options += ["--file", os.path.abspath(args.file)]
    if args.json:
        options.append("--json")
    return options


def _writer(stream: TextIO) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        stream.buffer.write(data)
        stream.flush()

    return write
