# SPDX-License-Identifier: MIT
"""Kernels with one deliberate mistake each, to see that the tests find it.

``kernel/mutants/NAME.patch`` is applied on top of the series. It begins with what the mistake is and which
tests must find it, the quickest first::

    The last guest does not let go of its domain.

    Found by: tests/guest/test_change.py::test_fork_attaches_the_child

    diff --git a/mm/ptshare/domain.c b/mm/ptshare/domain.c

Tree, objects and images of mutants are under ``mutants/`` in the cache. The first mutant takes as long as a
kernel, those after it as long as to compile the files in which they differ, and to link.
"""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ptshare.lab.errors import LabError
from ptshare.lab.kernel_dir import KernelDir

__all__ = ["Mutant", "Outcome", "all_mutants", "find_mutant", "mutated", "outcome_of", "run_tests", "table"]

_FOUND_BY = "Found by:"
_RESULT = re.compile(r"^(?P<test>tests/\S+?::\S.*?) (?P<result>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
_STARTED = re.compile(r"^(?P<test>tests/\S+?::\S.*?) *$")
#: For one test, more than those take that mutants name: one that hangs is named before all the time is up.
_TEST_SECONDS = 200.0


@dataclass(frozen=True)
class Mutant:
    """A deliberate mistake.

    :param mistake: what it is, in a sentence
    :param tests: tests that must find it, as pytest names them, relative to the repository
    """

    name: str
    mistake: str
    tests: tuple[str, ...]
    patch: Path


@dataclass(frozen=True)
class Outcome:
    """What the tests said of one kernel.

    :param test: the test that failed first; empty: none did
    :param how: ``failed``, or ``hung``: it was not done when the time was up
    :param seconds: from starting pytest to its end, with the guest's boot
    """

    test: str
    how: str
    seconds: float

    def __str__(self) -> str:
        what = f"{self.test} {self.how}" if self.test else "all tests passed"
        return f"{what}, after {self.seconds:.0f} s"


def _read(path: Path) -> Mutant:
    head = re.split(r"^(?:diff --git|---) ", path.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in head.splitlines() if not line.startswith("SPDX-License-Identifier:")]
    tests = tuple(
        test for line in lines if line.startswith(_FOUND_BY) for test in line[len(_FOUND_BY) :].split()
    )
    mistake = " ".join(line.strip() for line in lines if line.strip() and not line.startswith(_FOUND_BY))
    if not mistake or not tests:
        raise LabError(f"{path} does not begin with what the mistake is, and lines {_FOUND_BY!r} with tests")
    return Mutant(path.stem, mistake, tests, path)


def all_mutants(kernel: KernelDir) -> list[Mutant]:
    """The mutants in ``kernel/mutants``, by name.

    :raises LabError: one of them does not say what it is
    """
    return [_read(path) for path in sorted((kernel.path / "mutants").glob("*.patch"))]


def find_mutant(kernel: KernelDir, name: str) -> Mutant:
    """The mutant of this name.

    :raises LabError: there is none, or it does not say what it is
    """
    found = {mutant.name: mutant for mutant in all_mutants(kernel)}
    if name not in found:
        raise LabError(f"unknown mutant {name!r}; there are: {', '.join(found) or 'none'}")
    return found[name]


def mutated(kernel: KernelDir, name: str) -> KernelDir:
    """The same kernel with a mistake on top.

    :raises LabError: as :func:`find_mutant`, or the kernel is a part of the series
    """
    if kernel.part is not None:
        raise LabError("a mutant is made of the whole series, not of its first patches")
    mutant = find_mutant(kernel, name)
    return replace(kernel, patches=[*kernel.patches, mutant.patch], mutant=name)


def outcome_of(output: str, status: int | None, seconds: float) -> Outcome:
    """Read what ``pytest -v -x`` printed.

    :param status: its exit status; ``None``: it was ended, its time was up
    :raises LabError: no test failed, and yet it was not content
    """
    lines = output.splitlines()
    running = ""
    for line in lines:
        if match := _RESULT.match(line):
            running = ""
            if match["result"] in ("FAILED", "ERROR"):
                # What the kernel plugin stops because of a test's own limit is a hang as well.
                hung = "the guest was stopped: the time for" in output
                return Outcome(match["test"], "hung" if hung else "failed", seconds)
        elif match := _STARTED.match(line):
            running = match["test"]
    if status is None:
        return Outcome(running or "the boot", "hung", seconds)
    if status != 0:
        raise LabError(f"pytest ended with {status} and no test failed: {(lines or ['no output'])[-1]}")
    return Outcome("", "", seconds)


def run_tests(
    root: Path, tests: Sequence[str], mutant: str, config: str, timeout: float, log: Path
) -> Outcome:
    """Run guest tests until the first failure.

    :param root: the repository
    :param mutant: the kernel to run them on; empty: the one without a mistake
    :param timeout: seconds for all of them together, with the guest's boot
    :param log: file that gets what pytest prints
    :raises LabError: pytest could not run them
    """
    command = ["setpriv", "--pdeathsig", "KILL", "--"]
    command += [sys.executable, "-m", "pytest", "-v", "-x", "-p", "no:cacheprovider", "--color=no"]
    command += [f"--guest-config={config}", f"--guest-mutant={mutant}"]
    command += [f"--guest-timeout={min(timeout, _TEST_SECONDS)}", *tests]
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                process.kill()  # the machine goes with it, see Guest
                process.wait()
    seconds = time.monotonic() - started
    try:
        return outcome_of(log.read_text(errors="replace"), status, seconds)
    except LabError as error:
        raise LabError(f"{error}; see {log}") from None


def table(outcomes: Sequence[tuple[str, Outcome]]) -> str:
    """Mutants and what found them, as a table in Markdown."""
    lines = ["| mutant | found by | seconds |", "|---|---|---|"]
    for name, outcome in outcomes:
        found = f"`{outcome.test}`" + (", which hung" if outcome.how == "hung" else "")
        lines.append(f"| {name} | {found if outcome.test else '**SURVIVED**'} | {outcome.seconds:.0f} |")
    return "\n".join(lines) + "\n"
