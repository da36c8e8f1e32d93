# SPDX-License-Identifier: MIT
"""What suites printed, test by test, and two kernels compared."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ptshare.lab.others.suites import DONE, PART

__all__ = ["Outcomes", "Row", "compared", "selftest_outcomes", "stress_outcomes", "table"]

#: (part, test) -> ``pass``, ``fail``, ``skip`` or ``timeout``. A test is a program, or one of those in it.
Outcomes = dict[tuple[str, str], str]

_DONE = re.compile(rf"^{DONE} (\S+) (\S+)$")
_RUNNING = re.compile(r"^# running (?:bash )?(?:\./)?(.*)$")
_TAP = re.compile(r"^(# )*(not ok|ok) \d+ ?(?:- )?(.*?)(?:\s*# (SKIP|exit=\d+).*)?$")
_UFFD = re.compile(r"^# Testing (.*?)\.\.\. (done|skipped|failed)\b")
_UFFD_RESULTS = {"done": "pass", "skipped": "skip", "failed": "fail"}
#: Numbers that are other ones in each run: addresses, times, sizes of what is free.
_VARYING = re.compile(r"0x[0-9a-f]+|\b\d{5,}\b|\b\d+\.\d+\b|(?<=xtra pages )\d+|(?<=thread faults )\d+")
#: What stress-ng exits with: stress-ng(1).
_STRESS = {"0": "pass", "3": "skip", "4": "skip", "timeout": "timeout"}


def _name(text: str) -> str:
    return " ".join(_VARYING.sub("N", text).split())


def selftest_outcomes(lines: Iterable[str]) -> Outcomes:
    """Read run_vmtests.sh: its own TAP, and that of its programs, which it puts behind ``#``."""
    outcomes: Outcomes = {}
    part = program = ""
    for raw in lines:
        line = raw.rstrip("\n")
        if line.startswith(PART):
            part, program = line.split()[-1], ""
        elif match := _DONE.match(line):
            if match[2] == "timeout":
                outcomes[part, program or part] = "timeout"
        elif match := _RUNNING.match(line):
            program = _name(match[1])
        elif match := _UFFD.match(line):
            _add(outcomes, part, f"{program}: {_name(match[1])}", _UFFD_RESULTS[match[2]])
        elif match := _TAP.match(line):
            nested, result, text, directive = match.groups()
            result = "fail" if result == "not ok" else "pass"
            if directive == "SKIP":
                result = "skip"
            _add(outcomes, part, f"{program}: {_name(text)}" if nested else _name(text), result)
    return outcomes


def _add(outcomes: Outcomes, part: str, test: str, result: str) -> None:
    """Tests of the same name are told apart by their number."""
    name, number = test, 1
    while (part, name) in outcomes:
        number += 1
        name = f"{test} ({number})"
    outcomes[part, name] = result


def stress_outcomes(lines: Iterable[str]) -> Outcomes:
    """Read the exit status of each stressor."""
    outcomes: Outcomes = {}
    for line in lines:
        if match := _DONE.match(line.rstrip("\n")):
            outcomes["vm", match[1]] = _STRESS.get(match[2], f"fail ({match[2]})")
    return outcomes


@dataclass(frozen=True)
class Row:
    """One test on both kernels: what came of it, each time that it ran.

    A test that gives one thing and another on the same kernel agrees if both kernels gave the same once.
    """

    part: str
    test: str
    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        return not set(self.theirs).isdisjoint(self.ours)

    @property
    def steady(self) -> bool:
        return len({*self.theirs, *self.ours}) == 1


def compared(theirs: Iterable[Outcomes], ours: Iterable[Outcomes]) -> list[Row]:
    """All tests of some runs on either kernel. A test that one kernel never ran is ``missing`` there."""
    runs = [list(theirs), list(ours)]
    tests = dict.fromkeys(key for kernel in runs for run in kernel for key in run)

    def seen(kernel: list[Outcomes], key: tuple[str, str]) -> tuple[str, ...]:
        return tuple(run[key] for run in kernel if key in run) or ("missing",)

    return [Row(*key, seen(runs[0], key), seen(runs[1], key)) for key in tests]


def _counts(rows: list[Row], kernel: str) -> str:
    """How many tests passed, failed, were skipped, in the last run of each."""
    found: dict[str, int] = {}
    for row in rows:
        last = (row.theirs if kernel == "theirs" else row.ours)[-1]
        kind = last.split()[0]
        found[kind] = found.get(kind, 0) + 1
    order = ("pass", "fail", "skip", "timeout", "missing")
    return ", ".join(f"{found[kind]} {kind}" for kind in order if kind in found)


def table(rows: list[Row], names: Mapping[str, str]) -> str:
    """Markdown: a line a part, then each test that is not steady.

    :param names: of the kernels, ``theirs`` and ``ours``
    """
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.part, []).append(row)
    lines = [f"| | {names['theirs']} | {names['ours']} | differ |", "|---|---|---|---|"]
    for part, its in parts.items():
        differ = sum(not row.agrees for row in its)
        lines.append(f"| {part} | {_counts(its, 'theirs')} | {_counts(its, 'ours')} | {differ or 'none'} |")
    unsteady = [row for row in rows if not row.steady]
    if unsteady:
        lines += ["", f"| test that is not steady | {names['theirs']} | {names['ours']} |", "|---|---|---|"]
    for row in unsteady:
        mark = "" if row.agrees else " **differs**"
        lines.append(f"| {row.part}: `{row.test}`{mark} | {', '.join(row.theirs)} | {', '.join(row.ours)} |")
    return "\n".join(lines) + "\n"
