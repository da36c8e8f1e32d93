# SPDX-License-Identifier: MIT
"""The options that say which processes are asked for, of ``ptshare audit`` and ``ptshare top``."""

import argparse

__all__ = ["add_scope", "pid"]

_MOST = (1 << 31) - 1


def add_scope(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """Add ``--pid``, ``--user``, ``--cgroup`` and ``--command``, which is ``commands`` of what is parsed.

    :returns: their group
    """
    scope = parser.add_argument_group("which processes; those that are in all that is given")
    scope.add_argument(
        "--pid", action="append", type=pid, default=[], metavar="PID", help="this one; repeatable"
    )
    scope.add_argument(
        "--user", action="append", type=_user, default=[], metavar="USER", help="name or number"
    )
    scope.add_argument(
        "--cgroup",
        action="append",
        type=_pattern,
        default=[],
        metavar="PATH",
        help="in it or below, as /system.slice/postgresql.service",
    )
    scope.add_argument(
        "--command",
        dest="commands",
        action="append",
        type=_pattern,
        default=[],
        metavar="GLOB",
        help="pattern of the process's name or the first word of its command line",
    )
    return scope


def pid(text: str) -> int:
    """The number of a process, for argparse."""
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not 0 < int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"wanted the number of a process, 1 to {_MOST}, found {text!r}")
    return int(text)


def _pattern(text: str) -> str:
    # An empty path of a control group would be that of all.
    if not text.strip():
        raise argparse.ArgumentTypeError(
            f"wanted what to look for, found {text!r}; leave the option out for all"
        )
    return text


def _user(text: str) -> int:
    import pwd

    try:
        return int(text) if text.isascii() and text.isdigit() else pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"no such user: {text!r}") from None
