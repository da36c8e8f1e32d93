# SPDX-License-Identifier: MIT
"""``ptshare conform``."""

import argparse
import random
import sys
from pathlib import Path

from ptshare.cli._numbers import seconds

__all__ = ["add_parser", "run"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``conform``."""
    parser = subparsers.add_parser(
        "conform",
        help="search for calls in which the patched kernel does something else than the contract says",
        description="Random programs of several processes run on the executable contract and, in a guest of "
        "the lab, on the kernel. After each step all that can be seen is compared. A program in which they "
        "differ is made as short as can be, and printed as a Python script that needs nothing else.",
        epilog="Exit status: 0 no difference, 1 there is one, 2 it cannot be done. See docs/conformance.md.",
    )
    parser.add_argument(
        "--seconds",
        type=seconds(1e7, zero=True),
        default=60.0,
        metavar="N",
        help="how long to search; default: %(default)g",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="what the random numbers follow from; those after it are used, too; default: another each time",
    )
    parser.add_argument(
        "--script", type=Path, metavar="FILE", help="write the script there, not to the output"
    )
    parser.add_argument(
        "--as-found", action="store_true", help="do not make it short, which can take minutes"
    )
    parser.add_argument(
        "--config", default="base", metavar="NAME", help="kernel/config/NAME.config; default: base"
    )
    parser.add_argument(
        "--mutant", default="", metavar="NAME", help="on the kernel with this mistake: docs/mutants.md"
    )


def run(args: argparse.Namespace) -> int:
    """Search, and return the exit status."""
    try:
        from ptshare.conform.search import search
    except ImportError:
        _say("hypothesis is not installed; in a checkout of ptshare: pip install '.[lab]'")
        return 2
    from ptshare.conform.agents import AgentError
    from ptshare.conform.link import LabKernel
    from ptshare.conform.script import script
    from ptshare.lab import LabError, build_image
    from ptshare.lab.terminal import ProgressLine

    seed = random.SystemRandom().getrandbits(31) if args.seed is None else args.seed
    _say(f"--seed {seed}")
    try:
        image = build_image(args.config, ProgressLine(), mutant=args.mutant)
        with LabKernel(image) as kernel:
            found = search(kernel, seed, args.seconds, _say, shrink=not args.as_found)
    except (LabError, AgentError) as error:
        _say(str(error))
        return 2
    rate = found.steps * 60 / found.seconds
    _say(f"{found.steps} steps, {rate:.0f} a minute, seeds {seed} to {found.last_seed}")
    if found.divergence is None:
        return 0
    for step in found.divergence.program.steps:
        _say(f"    {step}")
    _say(f"seed {found.last_seed}: {found.divergence}")
    text = script(found.divergence)
    if args.script:
        args.script.write_text(text)
    else:
        print(text, end="")
    return 1


def _say(text: str) -> None:
    print(f"conform: {text}", file=sys.stderr)
