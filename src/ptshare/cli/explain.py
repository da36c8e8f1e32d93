# SPDX-License-Identifier: MIT
"""``ptshare explain``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ptshare.cli._scope import pid
from ptshare.explain import compare, kernel, live, model, svg, text
from ptshare.explain.picture import Picture
from ptshare.explain.script import Script, ScriptError

__all__ = ["add_parser", "run"]

_EPILOG = """\
a script, a call a line; sizes and addresses such as 4K, 2M, 1T+2M, 0x10000000000:

  file data 4G
  A mmap data 0 2G rw at 1T      at the end perhaps: readonly (the file is opened for reading), ordinary
  A read 1T                      a byte; with a length all pages: A read 1T 4M
  A write 1T
  B fork A
  B mprotect 1T 4K r
  B dontneed 1T 2M               B munmap 1T 2M                B exit

Exit status: 0; 1 the kernel's answer is not the model's; 2 it cannot be had, or usage. See docs/explain.md.
"""

#: Ordinary mappings are left out.
_NOTHING = "No process has a mapping with MAP_SHARED_PT at the end, so no page table is shared."


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``explain``."""
    parser = subparsers.add_parser(
        "explain",
        help="show who links to which page table, by the model and by the kernel's own tables",
        usage="ptshare explain [options] PID ...\n       ptshare explain [options] --script FILE",
        description="Shows who links to which page table: of living processes, as root on a kernel with "
        "MAP_SHARED_PT, or of a short program, by the model on any machine and by real processes where the "
        "kernel can be asked.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pids", nargs="*", type=pid, metavar="PID", help="a process with MAP_SHARED_PT mappings"
    )
    parser.add_argument("--script", metavar="FILE", help="the program; - is standard input")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--kernel", action="store_true", help="have real processes run it too, or say why that cannot be"
    )
    which.add_argument("--model", action="store_true", help="the model's answer alone")
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="write the picture there, the kernel's if there is one"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Explain, and return the exit status."""
    if bool(args.pids) == (args.script is not None):
        args.parser.error("wanted either PIDs or --script FILE; give one of them")
    if args.pids and (args.kernel or args.model):
        args.parser.error("--kernel and --model belong to --script; leave them out")
    try:
        return _processes(args) if args.pids else _script(args)
    except (kernel.KernelFileError, live.LiveError, ScriptError) as error:
        print(f"ptshare explain: {error}", file=sys.stderr)
    except OSError as error:
        print(f"ptshare explain: {error.filename or ''}: {error.strerror}", file=sys.stderr)
    return 2


def _processes(args: argparse.Namespace) -> int:
    picture = kernel.read().of(args.pids)
    found = {process.pid for process in picture.processes}
    for asked in args.pids:
        if asked not in found:
            raise kernel.KernelFileError(
                f"process {asked} is not there, or has no mapping with MAP_SHARED_PT"
            )
    kernel.name_files(picture, args.pids)
    if args.json:
        print(json.dumps({"kernel": picture.as_json()}, indent=2))
    else:
        print("\n".join(text.written(text.tree(picture))))
        print(f"\n{compare.proof(picture)}.")
    _draw(args, picture, "who links to which table: " + ", ".join(one.name for one in picture.processes))
    return 0


def _script(args: argparse.Namespace) -> int:
    name = "standard input" if args.script == "-" else args.script
    try:
        script = Script.parse(_source(args.script))
    except (ScriptError, UnicodeDecodeError) as error:
        raise ScriptError(f"{name}, {error}") from None
    ours, results = model.run(script)
    title = f"who links to which table: {name}"
    if args.model or not (args.kernel or kernel.available()):
        if args.json:
            print(json.dumps({"model": ours.as_json(), "outcomes": results}, indent=2))
        else:
            _print_refused(script, results)
            print("\n".join(text.written(text.tree(ours))) or _NOTHING)
        _draw(args, ours, title)
        return 0

    if args.kernel:
        kernel.read()  # why it cannot be had is said before any process is made
    theirs, real = live.run(script)
    wrong = compare.outcomes(script, results, real) + compare.differences(ours, theirs)
    if args.json:
        value: dict[str, Any] = {"model": ours.as_json(), "kernel": theirs.as_json(), "outcomes": results}
        print(json.dumps({**value, "kernel_outcomes": real, "differences": wrong}, indent=2))
    else:
        _print_refused(script, results)
        trees = text.tree(ours), text.tree(theirs)
        print("\n".join(text.side_by_side(*trees, ("model", "kernel"))) if any(trees) else _NOTHING)
        print(f"\n{compare.proof(theirs)}.")
        print("The kernel's answer is not the model's:" if wrong else "The kernel's answer is the model's.")
        for line in wrong:
            print(f"  {line}")
    _draw(args, theirs, title)
    return 1 if wrong else 0


def _source(path: str) -> str:
    if path != "-":
        return Path(path).read_text(encoding="utf-8")
    if sys.stdin is None:
        raise ScriptError("wanted a script there, found it closed; give a file, or a pipe")
    return sys.stdin.read()


def _print_refused(script: Script, results: list[str]) -> None:
    refused = [f"{line}: {result}" for line, result in zip(script.lines, results, strict=True) if result]
    if refused:
        print("\n".join(refused) + "\n")


def _draw(args: argparse.Namespace, picture: Picture, title: str) -> None:
    if args.svg is None:
        return
    try:
        args.svg.write_text(svg.draw(picture, title), encoding="utf-8")
    except OSError as error:  # of a full disk it does not have the name
        raise OSError(error.errno, error.strerror, str(args.svg)) from None
