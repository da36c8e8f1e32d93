# SPDX-License-Identifier: MIT
"""``ptshare audit``."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator

from ptshare.audit.model import Audit
from ptshare.audit.words import path_name, plain
from ptshare.cli._scope import add_scope

__all__ = ["add_parser", "run"]

_ABOVE, _USAGE, _PARTIAL = 1, 2, 3
_YEAR = 86400 * 365


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``audit``."""
    parser = subparsers.add_parser(
        "audit",
        help="what page tables cost on this host, which files and processes cause it, what would help",
        description="Tells how much memory goes to page tables on this host, for which files and "
        "processes, how much of it is duplicate, and what sharing or huge pages would save. Changes nothing; "
        "works on any kernel; as root it sees all processes.",
        epilog="Exit status: 0; 1 --fail-above is exceeded; 2 usage, a file cannot be read or written, or "
        "no process is in what was asked for; 3 part of the host could not be read. See docs/audit.md.",
    )
    scope = add_scope(parser)
    scope.add_argument(
        "--from",
        dest="source",
        type=_file,
        metavar="FILE",
        help="show a snapshot instead of this host; -: standard input",
    )
    output = parser.add_argument_group("output; default: a table for people")
    how = output.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="as docs/audit-format.md tells")
    how.add_argument("--csv", action="store_true", help="the objects, a line each")
    output.add_argument(
        "--save", metavar="FILE", type=_file, help="keep a snapshot, for --from; packed if FILE ends in .gz"
    )
    output.add_argument(
        "--prometheus",
        metavar="FILE",
        type=_file,
        help="write metrics for node_exporter's textfile collector",
    )
    output.add_argument(
        "--plot", metavar="FILE", type=_picture, help="draw page tables by object: .png or .svg"
    )
    output.add_argument(
        "--objects", type=_count, default=15, metavar="N", help="how many to show; default: 15"
    )
    output.add_argument(
        "--processes", type=_count, default=5, metavar="N", help="how many to show; default: 5"
    )
    output.add_argument(
        "--watch", type=_seconds, metavar="SECONDS", help="again and again, until interrupted"
    )
    output.add_argument(
        "--fail-above",
        type=_size,
        metavar="SIZE",
        help="exit with 1 if page tables, of the processes asked for or of the host, take more, such as 4G",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="look at each table, also where there are more than a million and most processes of an object "
        "would be reckoned with by their VmPTE",
    )
    count = parser.add_mutually_exclusive_group()
    count.add_argument(
        "--physical",
        dest="count",
        action="store_true",
        default=None,
        help="count page-table pages "
        "by the kernel's marks, too, as root: about a second for 24 GiB of memory. Done unasked up "
        "to 32 GiB",
    )
    count.add_argument("--no-physical", dest="count", action="store_false", help="do not")


def run(args: argparse.Namespace) -> int:
    """Audit and return the exit status."""
    if args.source is not None and (asked := _asked(args)):
        return _fail(f"--from shows a snapshot as it is: {asked} cannot be asked of it; leave it out")
    if args.source is not None and args.watch is not None:
        return _fail("--watch looks at this host again and again, --from at a snapshot: leave one out")
    seen: set[int] = set()
    try:
        while True:
            seen.add(_once(args))
            if args.watch is None or _USAGE in seen:
                return _worst(seen)
            sys.stdout.flush()
            time.sleep(args.watch)
    except KeyboardInterrupt:
        return _worst(seen) if args.watch is not None else 130


def _worst(seen: set[int]) -> int:
    """Of the statuses of some audits the one to end with."""
    return next((status for status in (_USAGE, _ABOVE, _PARTIAL) if status in seen), 0)


def _once(args: argparse.Namespace) -> int:
    audit = _audit(args)
    if audit is None:
        return _USAGE
    if args.pid and not audit.processes:
        return _fail(f"no process {', '.join(map(str, args.pid))} that has memory of its own is to be seen")
    # While it is watched they may come; a snapshot is shown as it is.
    if audit.scope and not (audit.processes or audit.unread or args.watch or args.source):
        return _fail(
            f"wanted processes of {plain(audit.scope)}, found none that has memory of its own; "
            "ptshare audit shows all, and /proc/PID/cgroup has the path of a control group"
        )
    for path, make in _files(args, audit):
        from ptshare.audit import files

        try:
            files.write(path, make())
        except ImportError as error:
            return _fail(str(error))
        except OSError as error:
            return _fail(f"cannot write {path_name(path)}: {error.strerror}")
    _print(args, audit)
    total = audit.vm_pte if audit.scope else audit.host.page_tables
    if args.fail_above is not None and total > args.fail_above:
        from ptshare.sizes import format_bytes

        print(
            f"ptshare audit: {format_bytes(total)} of page tables, more than {format_bytes(args.fail_above)}",
            file=sys.stderr,
        )
        return _ABOVE
    if args.count and audit.host.counted is None:
        print(
            "ptshare audit: --physical: page tables could not be counted page by page: "
            "/proc/kpageflags is read by root alone, if the kernel has it; run it as root, or leave it out",
            file=sys.stderr,
        )
        return _PARTIAL
    return _PARTIAL if audit.unread or audit.host.partial else 0


def _audit(args: argparse.Namespace) -> Audit | None:
    """``None``: there is none, which has been said."""
    if args.source is not None:
        from ptshare.audit.snapshot import SnapshotError, read

        try:
            return read(args.source)
        except SnapshotError as error:
            _fail(str(error))
        except OSError as error:
            _fail(f"cannot read {path_name(args.source)}: {error.strerror}")
        return None
    from ptshare.audit.collect import Scope, collect
    from ptshare.audit.proc import FormatError

    try:
        return collect(
            Scope(args.pid, args.user, args.cgroup, args.commands), count=args.count, exact=args.exact
        )
    except (OSError, FormatError) as error:
        _fail(f"cannot read /proc: {getattr(error, 'strerror', None) or error}")
        return None


def _files(args: argparse.Namespace, audit: Audit) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if args.save is not None:
        from ptshare.audit import snapshot

        yield args.save, lambda: snapshot.pack(snapshot.dump(audit), args.save)
    if args.prometheus is not None:
        from ptshare.audit import prometheus

        yield args.prometheus, lambda: prometheus.metrics(audit).encode()
    if args.plot is not None:
        from ptshare.audit import plot

        yield args.plot, lambda: plot.draw(audit, args.plot.rpartition(".")[2].lower())


def _print(args: argparse.Namespace, audit: Audit) -> None:
    # What is written elsewhere need not be told here, too; a timer's journal would fill with it.
    if args.json:
        from ptshare.audit import snapshot

        sys.stdout.write(snapshot.dump(audit))
    elif args.csv:
        from ptshare.audit import rows

        sys.stdout.write(rows.as_csv(audit))
    elif args.prometheus is None and args.save is None and args.plot is None:
        from ptshare.audit import text

        if args.watch is not None and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        for line in text.lines(audit, args.objects, args.processes):
            print(line)


def _asked(args: argparse.Namespace) -> str:
    for name, value in (
        ("--pid", args.pid),
        ("--user", args.user),
        ("--cgroup", args.cgroup),
        ("--command", args.commands),
        ("--physical", args.count),
        ("--exact", args.exact),
    ):
        if value:
            return name
    return ""


def _fail(message: str) -> int:
    print(f"ptshare audit: {message}", file=sys.stderr)
    return _USAGE


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"wanted a number of lines from 0 to 999999999, found {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.1 <= seconds <= _YEAR:
        raise argparse.ArgumentTypeError(
            f"wanted a number of seconds from 0.1 to {_YEAR}, a year, found {text!r}"
        )
    return seconds


def _file(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("wanted the name of a file, found an empty one")
    return text


def _size(text: str) -> int:
    from ptshare.sizes import parse_bytes

    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _picture(text: str) -> str:
    if os.path.splitext(text)[1].lower() not in (".png", ".svg"):
        raise argparse.ArgumentTypeError(f"the name must end in .png or .svg, which {text!r} does not")
    return text
