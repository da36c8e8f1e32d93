# SPDX-License-Identifier: MIT
"""``ptshare lab``: build the patched kernel, boot it, run things in it."""

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from ptshare.cli import lab_demo
from ptshare.lab import LabError

__all__ = ["add_parser", "run"]

_EPILOG = """\
exit status: 2 the lab cannot do it, said in one line on standard error. For "run": the command's own; 120
the kernel reported a BUG, WARNING, lockdep, KASAN or the like, whatever the command returned; 121 the guest
ended before the command did; 124 its time was up.
"""


def _fetch(args: argparse.Namespace) -> int:
    from ptshare.lab import cache, fetch
    from ptshare.lab.terminal import ProgressLine

    with cache.lock("build"):
        source = fetch.fetch(ProgressLine(), refresh=args.refresh)
    print(source.path)
    return 0


def _apply(args: argparse.Namespace) -> int:
    from ptshare.lab import apply, cache, fetch, kernel_dir
    from ptshare.lab.terminal import ProgressLine

    with cache.lock("build"):
        tree = apply.apply(fetch.fetch(ProgressLine()), kernel_dir.kernel_dir())
    print(tree)
    return 0


def _build(args: argparse.Namespace) -> int:
    from ptshare.lab import build_image
    from ptshare.lab.terminal import ProgressLine

    print(build_image(args.config, ProgressLine()).bzimage)
    return 0


def _run(args: argparse.Namespace) -> int:
    from ptshare.lab import build_image, run_guest
    from ptshare.lab.terminal import ProgressLine

    if not args.argv:
        raise LabError("nothing to run; say what after --, such as: ptshare lab run -- uname -a")

    def to(stream: Any) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            stream.write(data)
            stream.flush()

        return write

    image = build_image(args.config, ProgressLine())
    result = run_guest(
        args.argv,
        image=image,
        memory=args.memory,
        cpus=args.cpus,
        stdout=to(sys.stdout.buffer),
        stderr=to(sys.stderr.buffer),
        timeout=args.timeout,
    )
    complaint = result.complaint()
    if complaint:
        print(f"lab: {complaint}", file=sys.stderr)
    elif args.verbose:
        print(f"lab: booted in {result.seconds_to_boot:.1f} s; console: {result.console}", file=sys.stderr)
    return result.exit_status


def _shell(args: argparse.Namespace) -> int:
    from ptshare.lab import build_image
    from ptshare.lab.shell import shell
    from ptshare.lab.terminal import ProgressLine

    result = shell(build_image(args.config, ProgressLine()), memory=args.memory, cpus=args.cpus)
    complaint = result.complaint()
    if complaint:
        print(f"lab: {complaint}", file=sys.stderr)
    return result.exit_status


def _patch(args: argparse.Namespace) -> int:
    from ptshare.lab import kernel_dir, series

    sys.stdout.write(series.mailbox(kernel_dir.kernel_dir()))
    return 0


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``lab`` and its subcommands."""
    summary = "build the patched kernel, boot it, run things in it"
    parser = subparsers.add_parser(
        "lab",
        help=summary,
        description=f"{summary.capitalize()}.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="lab_command", required=True, metavar="COMMAND")

    config = argparse.ArgumentParser(add_help=False)
    group = config.add_mutually_exclusive_group()
    group.add_argument(
        "--config", default="base", metavar="NAME", help="kernel/config/NAME.config; default: base"
    )
    group.add_argument(
        "--debug", dest="config", action="store_const", const="debug", help="short for --config debug"
    )
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--memory", default="4G", metavar="SIZE", help="the guest's memory; default: 4G")
    machine.add_argument(
        "--cpus", default=4, type=int, metavar="N", help="the guest's processors; default: 4"
    )

    fetch = commands.add_parser("fetch", help="fetch and unpack Debian's kernel source")
    fetch.add_argument("--refresh", action="store_true", help="ask apt for a newer point release")
    fetch.set_defaults(run_lab=_fetch)
    apply = commands.add_parser(
        "apply", help="put the new files and the series into the source; prints where it is"
    )
    apply.set_defaults(run_lab=_apply)
    build = commands.add_parser(
        "build", parents=[config], help="fetch, apply, configure, build; prints the image"
    )
    build.set_defaults(run_lab=_build)
    run_ = commands.add_parser("run", parents=[config, machine], help="boot and run a command in the guest")
    run_.add_argument("--timeout", type=float, metavar="SECONDS", help="stop the guest then; default: never")
    run_.add_argument(
        "-v", "--verbose", action="store_true", help="say how long the boot took, and where the console is"
    )
    run_.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="runs as root, in this directory"
    )
    run_.set_defaults(run_lab=_run)
    shell = commands.add_parser("shell", parents=[config, machine], help="boot and open a shell in the guest")
    shell.set_defaults(run_lab=_shell)
    patch = commands.add_parser("patch", help="print new files and series as one mailable series")
    patch.set_defaults(run_lab=_patch)
    lab_demo.add_parser(commands)


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds as Ctrl-C does, so that builds and guests are ended."""
    raise SystemExit(128 + number)


def run(args: argparse.Namespace) -> int:
    """Run a subcommand of ``ptshare lab``."""
    signal.signal(signal.SIGTERM, _terminated)
    if getattr(args, "argv", [])[:1] == ["--"]:
        args.argv = args.argv[1:]
    try:
        status: int = args.run_lab(args)
        return status
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lab: interrupted; nothing is left running", file=sys.stderr)
        return 130
