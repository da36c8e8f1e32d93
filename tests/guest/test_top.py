# SPDX-License-Identifier: MIT
"""``ptshare top`` on the patched kernel: what is shared already, and that it changes nothing of it."""

from contextlib import closing
from functools import partial

from held import sharing
from mapped import children, mapped, memory
from ptshare.syscalls import GRANULE, SHARED_PT
from terminal import TOP, Terminal, shown


def rows(terminal: Terminal, pids: list[int]) -> list[str]:
    """The lines of these processes, if it shows processes."""
    return [line for line in terminal.lines[6:] if line.startswith(tuple(f"{pid:7} " for pid in pids))]


def test_what_is_shared() -> None:
    size = 16 * GRANULE
    with memory(size) as fd, children(*[partial(mapped, fd, size, range(16), flags=SHARED_PT)] * 3) as pids:
        before = sharing()
        who = [option for pid in pids for option in ("--pid", str(pid))]
        with closing(Terminal([*TOP, *who, "--delay", "1"], width=120)) as terminal:
            terminal.until(shown(terminal))
            # Of three tables for each granule, two are saved.
            terminal.until(lambda: f"saved now {2 * 16 * 4} KiB" in terminal.lines[2])
            terminal.type("\t")
            terminal.until(lambda: len(rows(terminal, pids)) == 3)
            assert terminal.lines[5].startswith("    PID USER")
            column = terminal.lines[5].index("SHARED") + len("SHARED")
            assert {row[:column].split()[-1] for row in rows(terminal, pids)} == {f"{size >> 20}M"}
            terminal.type("q")
            assert terminal.ends() == 0
            assert terminal.restored()
            assert "Traceback" not in terminal.all
        assert sharing() == before
