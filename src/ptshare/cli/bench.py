# SPDX-License-Identifier: MIT
"""``ptshare bench``."""

import argparse
import sys
from pathlib import Path

from ptshare.bench.bars import PARITY
from ptshare.bench.runs import QUESTIONS, runs
from ptshare.cli._numbers import processors

__all__ = ["add_parser", "run"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``bench``."""
    asks = "\n".join(f"  {name:8} {text}" for name, text in QUESTIONS.items())
    parser = subparsers.add_parser(
        "bench",
        help="measure shared page tables against other ways, in a guest of the lab",
        description="Boots the patched kernel and measures there, with shared page tables and without.",
        epilog=f"questions:\n{asks}\n\nExit status: 1 a bar is missed (with --icount), 2 it cannot be done. "
        "See docs/bench.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="default: all")
    parser.add_argument(
        "--icount",
        action="store_true",
        help="the guest's clock counts instructions, so that figures repeat on a busy machine, too; slower",
    )
    parser.add_argument("--short", action="store_true", help="only what the bars need, and less of it")
    parser.add_argument(
        "--cpus", type=processors, default=4, metavar="N", help="the guest's processors; default: %(default)s"
    )
    parser.add_argument(
        "--memory", default="6G", metavar="SIZE", help="the guest's memory; default: %(default)s"
    )
    parser.add_argument(
        "--parity",
        action="store_true",
        help="compare what ordinary mappings cost here and on Debian's kernel, without the series; "
        f"default questions: {', '.join(PARITY)}",
    )
    parser.add_argument(
        "--locks",
        action="store_true",
        help="tell which locks each run waited for longest, on a kernel that counts it and is slower",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw them there; needs matplotlib")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    from ptshare.bench.bars import bars, parity
    from ptshare.bench.locks import CONFIG
    from ptshare.bench.plot import draw
    from ptshare.bench.session import measure
    from ptshare.bench.text import bar_table, tables
    from ptshare.lab import LabError, build_image
    from ptshare.lab.terminal import ProgressLine

    unknown = [question for question in args.questions if question not in QUESTIONS]
    if unknown:
        _say(f"there is no question {unknown[0]!r}; there are: {', '.join(QUESTIONS)}")
        return 2
    if args.locks and (args.icount or args.parity):
        other = "--icount" if args.icount else "--parity"
        _say(f"--locks is for processors that run at the same time; it does not go with {other}")
        return 2
    names = args.questions or (PARITY if args.parity else QUESTIONS)
    asked = [one for name in names for one in runs(name, args.short, args.cpus)]
    if args.icount:
        # What a disk takes is no number of instructions. Of reclaim the disk's part is over before.
        asked = [one for one in asked if one.how != "disk"]
    guest = {"cpus": args.cpus, "memory": args.memory, "icount": args.icount, "say": _say}
    config = CONFIG if args.locks else "base"
    unpatched = None
    try:
        if args.parity:
            ordinary = [one for one in asked if one.method == "ordinary" and one.question in PARITY]
            unpatched = measure(ordinary, build_image(progress=ProgressLine(), patches=0), **guest)
        found = measure(asked, build_image(config, ProgressLine()), locks=args.locks, **guest)
    except LabError as error:
        _say(str(error))
        return 2
    reckoned = bars(found)
    if unpatched:
        reckoned += parity(found, unpatched)
        print(tables(unpatched))
    print(tables(found))
    print(bar_table(reckoned), end="")
    if args.json:
        args.json.write_text(found.as_json())
    if args.svg:
        try:
            args.svg.write_bytes(draw(found))
        except ImportError as error:
            _say(str(error))
            return 2
    # Times of a busy machine prove nothing.
    missed = [bar for bar in reckoned if bar.binding and not bar.reached]
    return 1 if missed and args.icount else 0


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
