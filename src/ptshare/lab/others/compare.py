# SPDX-License-Identifier: MIT
"""A suite on both kernels: built once, run in a guest of each, again where they differ."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptshare.lab import apply, cache, fetch, kernel_dir
from ptshare.lab.errors import LabError
from ptshare.lab.guest import GuestResult, run_guest
from ptshare.lab.image import Image, build_image
from ptshare.lab.others import outcomes, suites
from ptshare.lab.others.outcomes import Outcomes, Row
from ptshare.lab.process import need_tools
from ptshare.lab.progress import Callback

__all__ = ["SUITES", "Comparison", "compare"]

SUITES: dict[str, Callable[[Iterable[str]], Outcomes]] = {
    "selftests": outcomes.selftest_outcomes,
    "stress-ng": outcomes.stress_outcomes,
}
_MEMORY = "6G"
_SECONDS = 7200.0
#: Runs of what differs, at most.
_AGAIN = 2
#: Categories that only our kernel can have.
_OURS = {"ptshare"}
#: A file of each library that the selftests are built with.
_HEADERS = {
    "/usr/include/sys/capability.h": "libcap-dev",
    "/usr/include/numa.h": "libnuma-dev",
    "/usr/include/liburing.h": "liburing-dev",
}


@dataclass(frozen=True)
class Comparison:
    """:param reports: what the kernels printed that they should not have, by kernel"""

    rows: list[Row]
    reports: dict[str, list[str]]

    @property
    def agrees(self) -> bool:
        return all(row.agrees for row in self.rows) and not self.reports["ours"]


def _build_selftests(progress: Callback) -> Path:
    """tools/testing/selftests/mm of the patched source, built in a copy of the tree.

    :raises LabError: a library is missing, or it does not build
    """
    missing = [package for file, package in _HEADERS.items() if not Path(file).exists()]
    if missing:
        raise LabError(f"the selftests need libraries; install with: apt-get install {' '.join(missing)}")
    need_tools("make", "gcc", "rsync")
    with cache.lock("build"):
        tree = apply.apply(fetch.fetch(progress), kernel_dir.kernel_dir())
        copy = cache.directory("selftests")
        shutil.rmtree(copy)
        # Hard links: what is built are new files.
        subprocess.run(["cp", "-al", str(tree), str(copy)], check=True)
    log = copy / "selftests.log"
    with log.open("w") as file:
        for command in (
            ["make", "-C", str(copy), "headers"],
            # khugepaged.c of 6.12.117 uses this and does not include what defines it.
            ["make", "-C", str(copy / "tools/testing/selftests"), "TARGETS=mm", "EXTRA_CFLAGS=-DKSFT_SKIP=4"],
        ):
            if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file).returncode:
                raise LabError(f"the selftests do not build; see {log}")
    return copy / "tools/testing/selftests/mm"


def _run(
    suite: str, directory: Path, image: Image, parts: Sequence[str], log: Path
) -> tuple[Outcomes, GuestResult]:
    command = [sys.executable, suites.__file__, suite, str(directory), *parts]
    with log.open("ab") as file:
        start = file.tell()
        result = run_guest(
            command,
            image=image,
            memory=_MEMORY,
            stdout=file.write,
            stderr=file.write,
            timeout=_SECONDS,
        )
    with log.open(errors="replace") as text:
        text.seek(start)
        found = SUITES[suite](text)
    if result.exit_status and not result.reports:
        raise LabError(f"{suite} did not run to its end: {result.complaint() or 'see'} {log}")
    return found, result


def compare(
    suite: str,
    config: str,
    parts: Sequence[str],
    progress: Callback,
    say: Callable[[str], object],
) -> Comparison:
    """Run a suite on the kernel as Debian has it, and on ours; what differs, again on both.

    :param parts: categories or stressors; none: all
    :param say: called with what happens
    :raises LabError: something is missing or does not build, or a guest ended early
    """
    need_tools(*(["stress-ng"] if suite == "stress-ng" else []))
    images = {"theirs": build_image(config, progress, 0), "ours": build_image(config, progress)}
    directory = _build_selftests(progress) if suite == "selftests" else Path("/tmp")
    logs = cache.new_run_directory()
    runs: dict[str, list[Outcomes]] = {"theirs": [], "ours": []}
    reports: dict[str, list[str]] = {"theirs": [], "ours": []}
    rows: list[Row] = []
    for _ in range(1 + _AGAIN):
        for kernel, image in images.items():
            log = logs / f"{kernel}.log"
            say(f"{suite} on {kernel}: {' '.join(parts) or 'all'}; output: {log}")
            found, result = _run(suite, directory, image, parts, log)
            runs[kernel].append({key: value for key, value in found.items() if key[0] not in _OURS})
            reports[kernel] += [report.text for report in result.reports]
        rows = outcomes.compared(runs["theirs"], runs["ours"])
        differing = [row for row in rows if not row.agrees]
        if not differing:
            break
        for row in differing:
            say(f"differs: {row.part}: {row.test}: {row.theirs} {row.ours}")
        again = [row.test if suite == "stress-ng" else row.part for row in differing]
        parts = list(dict.fromkeys(again))
    return Comparison(rows, reports)
