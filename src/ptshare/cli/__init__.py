# SPDX-License-Identifier: MIT
"""The command ``ptshare``: one module a subcommand, nothing but arguments and printing.

The module ``ptshare.cli.NAME`` has ``add_parser(subparsers)``, which adds the parser ``NAME``, and
``run(args) -> int``. It is imported only when it is asked for, so that ``ptshare --help`` is quick.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

__all__ = ["main"]

#: Subcommand -> its line in ``ptshare --help``.
COMMANDS = {
    "demo": "show what sharing page tables saves on the running kernel",
    "lab": "build the patched kernel, boot it, run things in it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ptshare`` with ``argv`` (default: the process's arguments) and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
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
    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status
