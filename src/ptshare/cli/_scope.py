# SPDX-License-Identifier: MIT
"""The options that say which processes are asked for, of ``ptshare audit`` and ``ptshare top``."""

import argparse

__all__ = ["add_scope"]


def add_scope(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """Add ``--pid``, ``--user``, ``--cgroup`` and ``--command``, which is ``commands`` of what is parsed.

    :returns: their group
    """
    scope = parser.add_argument_group("which processes; those that are in all that is given")
    scope.add_argument(
        "--pid", action="append", type=_pid, default=[], metavar="PID", help="this one; repeatable"
    )
    scope.add_argument(
        "--user", action="append", type=_user, default=[], metavar="USER", help="name or number"
    )
    scope.add_argument(
        "--cgroup",
        action="append",
        default=[],
        metavar="PATH",
        help="in it or below, as /system.slice/postgresql.service",
    )
    scope.add_argument(
        "--command",
        dest="commands",
        action="append",
        default=[],
        metavar="GLOB",
        help="pattern of the process's name or the first word of its command line",
    )
    return scope


def _pid(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"not the number of a process: {text!r}")
    return int(text)


def _user(text: str) -> int:
    import pwd

    try:
        return int(text) if text.isascii() and text.isdigit() else pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"no such user: {text!r}") from None
