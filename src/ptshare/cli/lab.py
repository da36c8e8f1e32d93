# SPDX-License-Identifier: MIT
"""``ptshare lab``: build the patched kernel, boot it, run things in it."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from ptshare.cli import lab_demo
from ptshare.cli._numbers import processors, seconds
from ptshare.lab import LabError

__all__ = ["add_parser", "run"]

#: Of a time limit, seconds: 115 days.
_LONGEST = 1e7

_EPILOG = """\
exit status: 2 the lab cannot do it, said in one line on standard error. For "run": the command's own; 120
the kernel reported a BUG, WARNING, lockdep, KASAN or the like, whatever the command returned; 121 the guest
ended before the command did; 124 its time was up. For "check": 1 if something was found; for
"compare": 1 if the kernels differ, or ours reported something; for "mutants": 1 if one survived.
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

    print(build_image(args.config, ProgressLine(), args.patches, args.mutant).bzimage)
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

    image = build_image(args.config, ProgressLine(), args.patches)
    result = run_guest(
        args.argv,
        image=image,
        memory=args.memory,
        cpus=args.cpus,
        stdout=to(sys.stdout.buffer),
        stderr=to(sys.stderr.buffer),
        timeout=args.timeout,
        icount=args.icount,
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

    result = shell(build_image(args.config, ProgressLine(), args.patches), memory=args.memory, cpus=args.cpus)
    complaint = result.complaint()
    if complaint:
        print(f"lab: {complaint}", file=sys.stderr)
    return result.exit_status


def _patch(args: argparse.Namespace) -> int:
    from ptshare.lab import kernel_dir, series

    sys.stdout.write(series.mailbox(kernel_dir.kernel_dir()))
    return 0


def _check(args: argparse.Namespace) -> int:
    from ptshare.lab import check, kernel_dir
    from ptshare.lab.terminal import ProgressLine

    kernel, progress = kernel_dir.kernel_dir(), ProgressLine()
    findings = check.checkpatch(kernel, progress)
    if args.sparse:
        findings += check.sparse(kernel, args.config, progress)
    if args.each:
        for subject, what in check.each_patch(kernel, args.config, progress):
            print(f"{subject}: {what or 'builds and boots'}", flush=True)
            if what:
                findings.append(check.Finding(subject, what))
    if args.arm64:
        from ptshare.lab import cross

        total, changes = cross.changed_objects(kernel, progress)
        print(f"arm64: {total - len(changes)} of {total} objects have the same instructions")
        for change in changes:
            print(f"arm64: {change.name}: {change.bytes:+} bytes")
    left = [finding for finding in findings if not finding.accepted]
    for finding in findings if args.verbose else left:
        print(finding)
    print(f"lab: {len(left)} findings, and {len(findings) - len(left)} accepted ones", file=sys.stderr)
    return 1 if left else 0


def _compare(args: argparse.Namespace) -> int:
    from ptshare.lab.others.compare import compare
    from ptshare.lab.others.outcomes import table
    from ptshare.lab.terminal import ProgressLine

    def say(text: str) -> None:
        print(f"lab: {text}", file=sys.stderr)

    found = compare(args.suite, args.config, args.parts, ProgressLine(), say)
    print(table(found.rows, {"theirs": "Debian's kernel", "ours": "with the series"}), end="")
    for kernel, reports in found.reports.items():
        for report in reports:
            say(f"{kernel}: the kernel reported: {report}")
    return 0 if found.agrees else 1


def _mutants(args: argparse.Namespace) -> int:
    from ptshare.lab import build_image, cache, kernel_dir, mutants
    from ptshare.lab.terminal import ProgressLine

    kernel = kernel_dir.kernel_dir()
    known = mutants.all_mutants(kernel)
    if args.list:
        for mutant in known:
            print(f"{mutant.name}: {mutant.mistake}")
        return 0
    chosen = [mutants.find_mutant(kernel, name) for name in args.names] or known
    log = cache.new_run_directory() / "pytest.log"
    root = kernel.path.parent

    def run_on(name: str, tests: Sequence[str], timeout: float) -> mutants.Outcome:
        build_image(args.config, ProgressLine(), mutant=name)
        outcome = mutants.run_tests(root, tests, name, args.config, timeout, log)
        print(f"lab: {name or 'no mistake'}: {outcome}", file=sys.stderr)
        return outcome

    if args.control:
        tests = list(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
        outcome = run_on("", tests, args.timeout * len(chosen))
        if outcome.test:
            raise LabError(f"the kernel without a mistake fails: {outcome}; see {log}")
    outcomes = [(mutant.name, run_on(mutant.name, mutant.tests, args.timeout)) for mutant in chosen]
    print(mutants.table(outcomes), end="")
    return 0 if all(outcome.test for _, outcome in outcomes) else 1


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
    part = argparse.ArgumentParser(add_help=False)
    part.add_argument(
        "--patches",
        type=int,
        metavar="N",
        help="with the first N patches of the series only, 0: the kernel as Debian has it; default: all",
    )
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--memory", default="4G", metavar="SIZE", help="the guest's memory; default: 4G")
    machine.add_argument(
        "--cpus", default=4, type=processors, metavar="N", help="the guest's processors; default: 4"
    )

    fetch = commands.add_parser("fetch", help="fetch and unpack Debian's kernel source")
    fetch.add_argument("--refresh", action="store_true", help="ask apt for a newer point release")
    fetch.set_defaults(run_lab=_fetch)
    apply = commands.add_parser(
        "apply", help="put the new files and the series into the source; prints where it is"
    )
    apply.set_defaults(run_lab=_apply)
    build = commands.add_parser(
        "build", parents=[config, part], help="fetch, apply, configure, build; prints the image"
    )
    build.add_argument(
        "--mutant",
        default="",
        metavar="NAME",
        help="with a deliberate mistake, kernel/mutants/NAME.patch; in a tree of its own",
    )
    build.set_defaults(run_lab=_build)
    run_ = commands.add_parser(
        "run", parents=[config, part, machine], help="boot and run a command in the guest"
    )
    run_.add_argument(
        "--timeout", type=seconds(_LONGEST), metavar="SECONDS", help="stop the guest then; default: never"
    )
    run_.add_argument(
        "--icount",
        action="store_true",
        help="the guest's clock counts instructions, so that times repeat on a busy machine, too; slower",
    )
    run_.add_argument(
        "-v", "--verbose", action="store_true", help="say how long the boot took, and where the console is"
    )
    run_.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="runs as root, in this directory"
    )
    run_.set_defaults(run_lab=_run)
    shell = commands.add_parser(
        "shell", parents=[config, part, machine], help="boot and open a shell in the guest"
    )
    shell.set_defaults(run_lab=_shell)
    patch = commands.add_parser("patch", help="print new files and series as one mailable series")
    patch.set_defaults(run_lab=_patch)
    check = commands.add_parser(
        "check", parents=[config], help="checkpatch.pl --strict on the series, and sparse on the new files"
    )
    check.add_argument(
        "--sparse", action="store_true", help="sparse too; configures and builds what it needs"
    )
    check.add_argument(
        "--each",
        action="store_true",
        help="build and boot the kernel after each patch of the series too; most of an hour on 2 processors",
    )
    check.add_argument(
        "--arm64",
        action="store_true",
        help="compile for an architecture without the feature, and tell which objects differ from Debian's",
    )
    check.add_argument("-v", "--verbose", action="store_true", help="what is accepted, too, and why")
    check.set_defaults(run_lab=_check)
    mutants = commands.add_parser(
        "mutants",
        parents=[config],
        help="kernels with a deliberate mistake each, and the tests that must find it; a table in Markdown",
    )
    mutants.add_argument("--list", action="store_true", help="say which there are, and do nothing else")
    mutants.add_argument(
        "--control", action="store_true", help="first the same tests on the kernel without a mistake"
    )
    mutants.add_argument(
        "--timeout",
        default=300.0,
        type=seconds(_LONGEST),
        metavar="SECONDS",
        help="for each, after it is built; a test that is not done then has found it; default: 300",
    )
    mutants.add_argument("names", nargs="*", metavar="NAME", help="default: all in kernel/mutants")
    mutants.set_defaults(run_lab=_mutants)
    compare = commands.add_parser(
        "compare",
        parents=[config],
        help="other people's tests on Debian's kernel and on ours; a table in Markdown",
    )
    compare.add_argument(
        "suite", choices=("selftests", "stress-ng"), help="the kernel's own of mm/, or Debian's stress-ng"
    )
    compare.add_argument(
        "parts", nargs="*", metavar="PART", help="categories of run_vmtests.sh, or stressors; default: all"
    )
    compare.set_defaults(run_lab=_compare)
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
