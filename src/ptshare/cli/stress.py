# SPDX-License-Identifier: MIT
"""``ptshare stress``."""

import argparse
import json
import random
import sys

from ptshare.demo import signals
from ptshare.demo.errors import CannotRunError

__all__ = ["add_parser", "run"]

#: Each process has a place for a child beside its own, and a page says in 7 bits who wrote it.
_MAX_PROCESSES = 60


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``stress``."""
    parser = subparsers.add_parser(
        "stress",
        help="have processes do all that can be done with shared page tables, and check every page",
        description="Processes attach, detach, fork, exec, are killed, change protection, punch holes, "
        "truncate and page out, at random, on several files and under memory pressure. Every page that they "
        "read says what it must hold; wrong bytes, wrong rights, lost writes and leaks are found.",
        epilog="Exit status: 0 nothing is wrong, 1 something is, 2 it cannot run here. See docs/stress.md.",
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=60.0, metavar="N", help="how long; default: %(default)g"
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="what the random numbers follow from; default: another each time",
    )
    parser.add_argument(
        "--processes", type=_processes, default=12, metavar="N", help="how many; default: %(default)s"
    )
    parser.add_argument(
        "--ordinary",
        action="store_true",
        help="with ordinary page tables: what goes wrong then is not the feature's fault; on any kernel",
    )
    parser.add_argument(
        "--unprivileged",
        action="store_true",
        help="use nothing that only root may: no mounts, swap, control group, dropped caches",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON and nothing else")


def run(args: argparse.Namespace) -> int:
    """Run the stress test and return its exit status."""
    from ptshare.stress import report, session

    signals.unwind()
    seed = random.SystemRandom().getrandbits(31) if args.seed is None else args.seed
    options = session.Options(args.seconds, seed, args.processes, args.ordinary, not args.unprivileged)

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    try:
        results = session.run(options, say)
    except CannotRunError as error:
        print(f"ptshare stress: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ptshare stress: interrupted", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(report.as_json(results), indent=2))
    else:
        say("")
        for line in report.table(results):
            say(line)
    if results.failure:
        print(f"\nWRONG, with seed {seed}:\n{results.failure}", file=sys.stderr)
        return 1
    say("\nNothing is wrong: no byte, no right, no lost write, no leak.")
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e7:
        raise argparse.ArgumentTypeError(f"not a time in seconds: {text!r}")
    return seconds


def _processes(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= _MAX_PROCESSES:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_MAX_PROCESSES}, not {text!r}")
    return number
