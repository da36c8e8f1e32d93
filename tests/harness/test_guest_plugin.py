# SPDX-License-Identifier: MIT
"""Guest tests that fail in every way that a guest can: pytest on the host tells which, and why.

Each boot runs a directory of sample tests in a pytest of its own.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ptshare.lab import build_image
from ptshare.lab.terminal import ProgressLine

TESTS = Path(__file__).parents[1]

FAILING = """
import os, time
import pytest

def kernel_says(text):
    with open("/dev/kmsg", "w") as file:
        file.write(text)

def test_passes():
    assert os.environ["PTSHARE_LAB"]

@pytest.mark.parametrize("name", ["a b", "x::y", "ä"])
def test_names(name):
    pass

@pytest.mark.skip(reason="not today")
def test_skips():
    pass

@pytest.mark.xfail(reason="known")
def test_fails_as_expected():
    assert False

def test_fails():
    print("what it printed")
    assert 1 == 2

@pytest.fixture
def broken():
    raise RuntimeError("no fixture")

def test_errors(broken):
    pass

def test_warns():
    kernel_says("<4>WARNING: CPU: 0 PID: 1 at mm/ptshare.c:1 sample")

def test_fails_and_warns():
    kernel_says("<4>BUG: Bad page state in process sample")
    assert False

def test_passes_after_warning():
    pass

@pytest.mark.guest_timeout(3)
def test_hangs():
    time.sleep(600)

def test_comes_after_the_hang():
    pass
"""

CRASHING = """
def test_passes():
    pass

def test_crashes():
    with open("/proc/sysrq-trigger", "w") as file:
        file.write("c")

def test_comes_after_the_crash():
    pass
"""

WARNING_LATE = """
def test_passes():
    import atexit
    atexit.register(lambda: open("/dev/kmsg", "w").write("<4>WARNING: CPU: 0 PID: 1 at mm/late.c:1"))
"""


#: Two files, each for a guest of its own. The second is far ahead when the first is told of.
TWO_GUESTS = {
    "test_one.py": """
import time

def test_boot_id_one():
    time.sleep(20)
    assert False, open("/proc/sys/kernel/random/boot_id").read()

def test_passes_one():
    pass
""",
    "test_two.py": """
def test_boot_id_two():
    assert False, open("/proc/sys/kernel/random/boot_id").read()

def test_warns_two():
    open("/dev/kmsg", "w").write("<4>WARNING: CPU: 0 PID: 1 at mm/two.c:1")

def test_passes_two():
    pass
""",
}


@dataclass(frozen=True)
class Outcome:
    """What a pytest with guest tests printed."""

    status: int
    text: str

    def of(self, test: str) -> list[str]:
        """Verdicts on a test, in order."""
        pattern = rf"^test_\w+\.py::{re.escape(test)} ([A-Z]+)"
        return re.findall(pattern, self.text, re.MULTILINE)

    def section(self, test: str) -> str:
        """The part of the report that is about a test."""
        match = re.search(rf"^_+ (?:ERROR at \w+ of )?{test} _+$(.*?)(?=^_+ |^=+ )", self.text, re.M | re.S)
        return match[1] if match else ""


@pytest.fixture(scope="module")
def config(request: pytest.FixtureRequest) -> str:
    """The kernel configuration that this run of the tests is about, built."""
    name = str(request.config.getoption("--guest-config"))
    build_image(config=name, progress=ProgressLine())
    return name


def run_sample(directory: Path, config: str, tests: str | dict[str, str], *options: str) -> Outcome:
    """:param tests: one file, or several by their names"""
    (directory / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS}\nguest_paths = .\n")
    (directory / "conftest.py").write_text('pytest_plugins = ["guest_plugin"]\n')
    for name, text in ({"test_sample.py": tests} if isinstance(tests, str) else tests).items():
        (directory / name).write_text(text)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "-p",
            "no:cacheprovider",
            "--color=no",
            "--guest-config",
            config,
            *options,
        ],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Outcome(result.returncode, result.stdout + result.stderr)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, config: str) -> Outcome:
    return run_sample(tmp_path_factory.mktemp("failing"), config, FAILING)


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory, config: str) -> Outcome:
    return run_sample(tmp_path_factory.mktemp("crashing"), config, CRASHING)


def test_outcomes_are_the_tests_own(failing: Outcome) -> None:
    assert failing.of("test_passes") == ["PASSED"], failing.text
    assert failing.text.count("test_names[") == 3
    assert failing.of("test_skips") == ["SKIPPED"]
    assert failing.of("test_fails_as_expected") == ["XFAIL"]
    assert failing.of("test_fails") == ["FAILED"]
    assert failing.of("test_errors") == ["ERROR"]
    assert failing.status == 1


def test_a_failure_comes_with_its_traceback_and_output(failing: Outcome) -> None:
    assert "assert 1 == 2" in failing.section("test_fails")
    assert "what it printed" in failing.section("test_fails")
    assert "no fixture" in failing.section("test_errors")


def test_a_kernel_report_fails_the_test_that_ran(failing: Outcome) -> None:
    assert failing.of("test_warns") == ["FAILED"]
    assert "mm/ptshare.c:1 sample" in failing.section("test_warns")
    assert "console.log" in failing.section("test_warns")
    assert "Bad page state" in failing.section("test_fails_and_warns")
    assert failing.of("test_passes_after_warning") == ["PASSED"]


def test_a_hang_fails_the_test_and_stops_the_guest(failing: Outcome) -> None:
    assert failing.of("test_hangs") == ["FAILED"]
    assert "time for test_sample.py::test_hangs was up" in failing.section("test_hangs")
    assert "sysrq: Show Blocked State" in failing.section("test_hangs")
    assert "Fatal Python error: Aborted" in failing.section("test_hangs")
    assert failing.of("test_comes_after_the_hang") == ["ERROR"]
    assert "did not run" in failing.section("test_comes_after_the_hang")


def test_a_crash_fails_the_test_with_the_end_of_the_console(crashing: Outcome) -> None:
    assert crashing.of("test_passes") == ["PASSED"], crashing.text
    assert crashing.of("test_crashes") == ["FAILED"]
    assert "Kernel panic - not syncing: sysrq triggered crash" in crashing.section("test_crashes")
    assert crashing.of("test_comes_after_the_crash") == ["ERROR"]
    assert "crashed while test_sample.py::test_crashes ran" in crashing.section("test_comes_after_the_crash")
    assert crashing.status == 1


def test_a_kernel_report_after_the_last_test_is_a_failure_of_its_own(tmp_path: Path, config: str) -> None:
    late = run_sample(tmp_path, config, WARNING_LATE)
    assert late.of("test_passes") == ["PASSED"], late.text
    assert "kernel::WARNING (after test_sample.py::test_passes) FAILED" in late.text
    assert "mm/late.c:1" in late.text
    assert late.status == 1


def test_two_guests_at_a_time(tmp_path: Path, config: str) -> None:
    """Each file has a guest of its own, and what its kernel says fails its own tests."""
    both = run_sample(tmp_path, config, TWO_GUESTS, "--guest-jobs", "2")
    verdicts = {
        name: both.of(name)
        for name in (
            "test_boot_id_one",
            "test_passes_one",
            "test_boot_id_two",
            "test_warns_two",
            "test_passes_two",
        )
    }
    assert verdicts == {
        "test_boot_id_one": ["FAILED"],
        "test_passes_one": ["PASSED"],
        "test_boot_id_two": ["FAILED"],
        "test_warns_two": ["FAILED"],
        "test_passes_two": ["PASSED"],
    }, both.text
    boots = set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", both.text))
    assert len(boots) == 2
    assert "mm/two.c:1" in both.section("test_warns_two")
    assert "kernel::" not in both.text
