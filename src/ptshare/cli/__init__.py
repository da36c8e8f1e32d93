# SPDX-License-Identifier: MIT
"""The command ``ptshare``: one module a subcommand, nothing but arguments and printing.

The module ``ptshare.cli.NAME`` has ``add_parser(subparsers)``, which adds the parser ``NAME``, and
``run(args) -> int``. It is imported only when it is asked for, so that ``ptshare --help`` is quick.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence

from ptshare._output import guarded

__all__ = ["main"]

#: Subcommand -> its line in ``ptshare --help``.
COMMANDS = {
    "audit": "what page tables cost on this host, what causes it, what would help",
    "bench": "measure shared page tables against other ways, in a guest of the lab",
    "conform": "search for calls in which the patched kernel does something else than the contract says",
    "demo": "show what sharing page tables saves on the running kernel",
    "explain": "show who links to which page table, by the model and by the kernel's own tables",
    "lab": "build the patched kernel, boot it, run things in it",
    "plan": "reckon what page tables take for so many processes, by method",
    "run": "run an unmodified program so that its large shared mappings share their page tables",
    "stress": "have processes do all that can be done with shared page tables, and check every page",
    "top": "page tables of this host, live: objects, processes, growth, faults",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ptshare`` with ``argv`` (default: the process's arguments) and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = " ".join(["ptshare", *(word for word in arguments[:1] if word in COMMANDS)])
    try:
        return guarded(name, lambda: _run(arguments))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="ptshare", description="Page tables shared between processes (MAP_SHARED_PT)."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        if arguments[:1] != [name]:
            subparsers.add_parser(name, help=summary)
            continue
        module = importlib.import_module(f"ptshare.cli.{name}")
        module.add_parser(subparsers)
        parser.set_defaults(run=module.run)
        if hasattr(module, "spelled_out"):
            arguments = [name, *module.spelled_out(arguments[1:])]
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        # By the subcommand's parser, which knows how that is used.
        subparsers.choices[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    status: int = args.run(args)
    return status
