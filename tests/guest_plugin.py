# SPDX-License-Identifier: MIT
"""Runs guest tests, which are ordinary pytest tests, in the lab's machine: one boot for all of them, or one
each for as many parts as ``--guest-jobs`` says, at a time.

On the host, tests below ``guest_paths`` (pyproject.toml) are collected as usual. When the first of them is
due, a guest starts that runs pytest on all of them with ``--guest-inner``; its reports come back one by one
and are logged here as if the tests had run here. On the kernel's console a mark tells which test runs, so
that a report of the kernel's fails the test that caused it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ptshare.lab import LabError, build_image
from ptshare.lab.console import MARK, Report
from ptshare.lab.guest import Guest
from ptshare.lab.terminal import ProgressLine

_BOOT_SECONDS = 180.0
#: For a test, on a kernel that does not watch over itself.
_TEST_SECONDS = 300.0
_CONSOLE_LINES = 80
_REPORT_LINES = 40


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the guest tests."""
    group = parser.getgroup("guest", "tests in the lab's machine")
    group.addoption(
        "--guest-config", default="base", metavar="NAME", help="kernel configuration; default: base"
    )
    group.addoption(
        "--guest-mutant",
        default="",
        metavar="NAME",
        help="on the kernel with this deliberate mistake: kernel/mutants/NAME.patch",
    )
    group.addoption("--guest-memory", default="5G", metavar="SIZE", help="the guest's memory; default: 5G")
    group.addoption(
        "--guest-cpus", default=4, type=int, metavar="N", help="the guest's processors; default: 4"
    )
    group.addoption(
        "--guest-timeout",
        type=float,
        metavar="SECONDS",
        help=f"for one test; default: its marker guest_timeout, or {_TEST_SECONDS:.0f}",
    )
    group.addoption("--guest-jobs", default=1, type=int, metavar="N", help="guests at a time; default: 1")
    group.addoption("--guest-inner", action="store_true", help="given by the host to the pytest in the guest")
    parser.addini("guest_paths", type="paths", default=[], help="directories of tests that run in the guest")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the side."""
    config.addinivalue_line(
        "markers", "guest_timeout(seconds): time for this test, unless --guest-timeout gives more"
    )
    if config.getoption("--guest-inner"):
        config.pluginmanager.register(_Inner(config), "guest-inner")
    elif not os.environ.get("PTSHARE_LAB"):
        config.pluginmanager.register(_Outer(config), "guest-outer")


class _Inner:
    """In the guest: tells the host what happens, one JSON object a line."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._fd = int(os.environ["PTSHARE_MESSAGES_FD"])
        os.set_inheritable(self._fd, False)  # the tests' children have no business with it

    def _send(self, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]

    def _mark(self, text: str) -> None:
        with open("/dev/kmsg", "w", encoding="utf-8") as file:
            file.write(f"<5>{MARK}{text}\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._send(uncollected=report.nodeid, text=report.longreprtext)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._mark(nodeid)
        self._send(start=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._send(report=self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._mark(f"after {nodeid}")
        self._send(finish=nodeid)


class _Outer:
    """On the host: starts guests when the first test is due, and logs each test's reports in its turn."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._paths: list[Path] = config.getini("guest_paths")
        self._runs: dict[str, _Run] = {}  # by the name of a test

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Guest tests last: what can fail without a boot fails first."""
        items.sort(key=self._is_guest_test)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Files are dealt to the guests in turn."""
        items = [item for item in session.items if self._is_guest_test(item)]
        files = list(dict.fromkeys(item.path for item in items))
        jobs = max(1, self._config.getoption("--guest-jobs"))
        for job in range(jobs):
            its = [item for item in items if files.index(item.path) % jobs == job]
            run = _Run(self._config, its)
            self._runs.update({item.nodeid: run for item in its})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """In place of running a guest test here: have it run there, and log its reports."""
        if not self._is_guest_test(item):
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for run in self._all_runs():
            run.start()
        for report in self._runs[item.nodeid].outcome(item, self._pump_others):
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let the guests end, or end them if the session stopped early; see what their kernels said last."""
        stopped = bool(session.shouldfail or session.shouldstop)
        for run in self._all_runs():
            for report in run.finish(at_once=stopped):
                session.ihook.pytest_runtest_logreport(report=report)
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:
        for run in self._all_runs():
            run.end()  # the session was interrupted

    def _all_runs(self) -> list["_Run"]:
        return list(dict.fromkeys(self._runs.values()))

    def _pump_others(self, one: "_Run") -> None:
        """What other guests send is taken meanwhile, so that they need not wait."""
        for run in self._all_runs():
            if run is not one:
                run.pump(0.0)

    def _is_guest_test(self, item: pytest.Item) -> bool:
        return any(path in item.path.parents for path in self._paths)


class _Run:
    """One guest and its tests."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self._config = config
        self._items = items
        self._guest: Guest | None = None
        self._failure = ""  # why no more tests can run
        self._partial = b""
        self._output = b""
        self._running: str | None = None
        self._deadline = 0.0
        self._reports: dict[str, list[pytest.TestReport]] = {}
        self._finished: set[str] = set()
        self._uncollected: dict[str, str] = {}
        self._unlogged = {item.nodeid for item in items}
        self._reports_seen = 0
        self._kernel_reports: list[Report] = []  # not logged yet

    def start(self) -> None:
        """Start the guest, unless it was started or could not be."""
        if self._guest is None and not self._failure:
            self._start()

    def end(self) -> None:
        """End the guest at once."""
        if self._guest is not None:
            self._guest.__exit__(None, None, None)
            self._guest = None

    def finish(self, at_once: bool) -> Iterator[pytest.TestReport]:
        """Let the guest end, unless it is to be ended at once.

        :return: reports of what the kernel printed after the last test
        """
        guest = self._guest
        if guest is None:
            return
        deadline = time.monotonic() + self._idle_seconds
        while guest.running and not at_once and time.monotonic() < deadline:
            self.pump()
        guest.__exit__(None, None, None)
        self._take_kernel_reports("")
        self._unlogged.clear()  # there are some if the session stopped early
        yield from self._kernel_reports_elsewhere()
        self._guest = None

    def _start(self) -> None:
        option = self._config.getoption
        capture: Any = self._config.pluginmanager.getplugin("capturemanager")
        try:
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                image = build_image(option("--guest-config"), ProgressLine(), mutant=option("--guest-mutant"))
            # The guest's own configuration file is the host's; what it prints is kept in case it fails.
            inner = [sys.executable, "-m", "pytest", "--guest-inner", "-p", "no:cacheprovider", "-q"]
            inner += ["--rootdir", str(self._config.rootpath)]
            if self._config.inipath is not None:
                inner += ["-c", str(self._config.inipath)]
            inner += [f"-o{value}" for value in self._config.known_args_namespace.override_ini or ()]
            self._guest = Guest(
                [*inner, *(item.nodeid for item in self._items)],
                image=image,
                memory=option("--guest-memory"),
                cpus=option("--guest-cpus"),
                cwd=self._config.rootpath,
                # For the test of what such a page needs: the others get by with the rest.
                giant_pages=1,
            )
        except LabError as error:
            self._failure = f"no guest: {error}"
            return
        self._deadline = time.monotonic() + self._idle_seconds

    def pump(self, seconds: float = 0.2) -> None:
        """Take what the guest sends, for a short while."""
        if self._guest is not None:
            self._absorb(self._guest.poll(seconds))

    def _absorb(self, output: list[tuple[str, bytes]]) -> None:
        for name, data in output:
            if name != "messages":
                self._output = (self._output + data)[-20_000:]
                continue
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "start" in message:
            self._running = message["start"]
            self._deadline = time.monotonic() + self._seconds_for(message["start"])
        elif "report" in message:
            report = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=message["report"]
            )
            if isinstance(report.longrepr, list):  # a skip's place and reason; JSON knows no tuples
                report.longrepr = tuple(report.longrepr)
            self._reports.setdefault(report.nodeid, []).append(report)
        elif "finish" in message:
            self._running = None
            self._finished.add(message["finish"])
            self._deadline = time.monotonic() + self._idle_seconds
        elif "uncollected" in message:
            self._uncollected[message["uncollected"]] = message["text"]

    @property
    def _idle_seconds(self) -> float:
        """Time to boot and collect, or between two tests; a slow kernel has a long time for a test."""
        return max(_BOOT_SECONDS, self._config.getoption("--guest-timeout") or _TEST_SECONDS)

    def _seconds_for(self, nodeid: str) -> float:
        given: float | None = self._config.getoption("--guest-timeout")
        for item in self._items:
            marker = item.get_closest_marker("guest_timeout")
            if item.nodeid == nodeid and marker is not None:
                return max(float(marker.args[0]), given or 0.0)
        return given or _TEST_SECONDS

    # Outcomes

    def outcome(
        self, item: pytest.Item, meanwhile: Callable[["_Run"], object]
    ) -> Iterator[pytest.TestReport]:
        """The reports of one test, after waiting for it, and those of the kernel's complaints.

        :param meanwhile: called again and again while it waits
        """
        guest = self._guest
        if guest is None:
            yield _failed(item, "setup", self._failure)
            return
        while item.nodeid not in self._finished and not self._failure:
            self.pump()
            meanwhile(self)
            if item.nodeid in self._finished:
                break
            if not guest.running:
                self._failure = f"the guest {self._ending(guest)}"
                if self._running:
                    self._failure += f" while {self._running} ran"
            elif time.monotonic() > self._deadline:
                what = self._running or "pytest's start"
                self._absorb(guest.time_out())
                self._failure = f"the guest was stopped: the time for {what} was up"
        kernel = self._take_kernel_reports(item.nodeid)
        if item.nodeid in self._finished:
            reports = self._reports.pop(item.nodeid)
            if kernel:
                self._blame(reports, kernel)
            yield from reports
        elif item.nodeid == self._running:
            text = f"{self._failure}\n\nThe console from this test's start:\n"
            text += self._console_since(guest, item.nodeid)
            if guest.timed_out:  # the agent had Python tell where it is
                text += f"\n\nWhat pytest in the guest printed last:\n{self._output.decode(errors='replace')}"
            if kernel:
                text = f"{self._excerpt(kernel)}\n\n{text}"
            self._running = None
            yield _failed(item, "call", text)
        else:
            yield _failed(item, "setup", f"did not run: {self._failure}")
        yield from self._kernel_reports_elsewhere()

    def _ending(self, guest: Guest) -> str:
        """How the guest came to end before its time."""
        if guest.status is None:
            return "crashed"
        if self._uncollected:
            texts = "\n".join(self._uncollected.values())
            return f"could not collect the tests:\n{texts}"
        said = self._output.decode(errors="replace")
        return f"ended: pytest in it exited with {guest.status} and said:\n{said}"

    def _take_kernel_reports(self, nodeid: str) -> list[Report]:
        """What the kernel reported while this test ran, which is logged now. Tests can have run since."""
        assert self._guest is not None
        self._kernel_reports += self._guest.reports[self._reports_seen :]
        self._reports_seen = len(self._guest.reports)
        self._unlogged.discard(nodeid)
        its = [report for report in self._kernel_reports if report.mark == nodeid]
        self._kernel_reports = [
            report for report in self._kernel_reports if report.mark != nodeid or not nodeid
        ]
        return its

    def _kernel_reports_elsewhere(self) -> Iterator[pytest.TestReport]:
        """A failing entry for each report that came when no test ran, or after its test was logged."""
        reports, self._kernel_reports = self._kernel_reports, []
        for report in reports:
            if report.mark in self._unlogged:
                self._kernel_reports.append(report)
            else:
                when = report.mark or "before the first test"
                yield pytest.TestReport(
                    nodeid=f"kernel::{report.kind} ({when})",
                    location=("kernel", None, report.kind),
                    keywords={},
                    outcome="failed",
                    longrepr=self._excerpt([report]),
                    when="call",
                )

    def _blame(self, reports: list[pytest.TestReport], kernel: list[Report]) -> None:
        """Fail a test for what the kernel reported while it ran."""
        text = self._excerpt(kernel)
        report = next((report for report in reports if report.when == "call"), reports[-1])
        if report.failed:
            report.sections.append(("the kernel's console", text))
        else:
            report.outcome = "failed"
            report.longrepr = text

    def _excerpt(self, kernel: list[Report]) -> str:
        """The kernel's own words."""
        assert self._guest is not None
        lines = self._guest.console.read_text(errors="replace").splitlines()
        parts = [
            f"The kernel reported {', '.join(report.kind for report in kernel)}; see {self._guest.console}"
        ]
        first = kernel[0].line - 1
        parts += lines[first : first + _REPORT_LINES]
        return "\n".join(parts)

    def _console_since(self, guest: Guest, nodeid: str) -> str:
        lines = guest.console.read_text(errors="replace").splitlines()
        first = next((i for i, line in enumerate(lines) if line.endswith(MARK + nodeid)), 0)
        lines = lines[first:]
        if len(lines) > 2 * _CONSOLE_LINES:
            lines[_CONSOLE_LINES:-_CONSOLE_LINES] = ["..."]
        return "\n".join([*lines, f"(all of it: {guest.console})"])


def _failed(item: pytest.Item, when: Any, text: str) -> pytest.TestReport:
    """A failure of our own making; in ``setup`` pytest counts it as an error."""
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=text,
        when=when,
    )
