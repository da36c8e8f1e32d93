# SPDX-License-Identifier: MIT
"""The units in contrib/systemd: they are valid, and what they forbid leaves the audit all that it reads."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[3] / "contrib/systemd"
SERVICE, TIMER = UNITS / "ptshare-audit.service", UNITS / "ptshare-audit.timer"
COLLECTED = "/var/lib/prometheus/node-exporter"
PTSHARE = Path(sys.executable).parent / "ptshare"
PR_SET_MDWE = 65


def settings(unit: Path) -> dict[str, dict[str, str]]:
    """Its sections; nothing is given twice."""
    sections: dict[str, dict[str, str]] = {}
    section = ""
    for line in unit.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
            assert section not in sections
            sections[section] = {}
            continue
        name, _, value = line.partition("=")
        assert re.fullmatch(r"[A-Za-z]+", name), line
        assert name not in sections[section]
        sections[section][name] = value
    return sections


def test_nothing_hides_processes() -> None:
    service = settings(SERVICE)["Service"]
    hiding = {"ProtectProc", "ProcSubset", "PrivateUsers", "PrivatePIDs", "DynamicUser", "RootDirectory"}
    assert hiding.isdisjoint(service)
    assert service["User"] == "root"
    assert service["CapabilityBoundingSet"].split() == ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]
    for name in ("InaccessiblePaths", "ReadOnlyPaths", "TemporaryFileSystem"):
        assert "/proc" not in service.get(name, "")


def test_it_may_write_where_it_writes_and_nowhere_else() -> None:
    service = settings(SERVICE)["Service"]
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ReadWritePaths"] == COLLECTED
    assert service["ExecStart"].split()[-1] == f"{COLLECTED}/ptshare.prom"


def test_part_of_the_host_unread_is_no_failure() -> None:
    assert settings(SERVICE)["Service"]["SuccessExitStatus"] == "3"


def test_the_timer_starts_the_service() -> None:
    timer = settings(TIMER)
    assert TIMER.stem == SERVICE.stem
    assert "Unit" not in timer["Timer"]
    assert timer["Install"] == {"WantedBy": "timers.target"}


def test_systemd_understands_them(tmp_path: Path) -> None:
    """It complains of unknown settings in words alone, and of a program that is not there."""
    text = SERVICE.read_text()
    assert "/opt/ptshare/bin/ptshare" in text
    (tmp_path / SERVICE.name).write_text(text.replace("/opt/ptshare/bin/ptshare", str(PTSHARE)))
    shutil.copy(TIMER, tmp_path)
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / SERVICE.name, tmp_path / TIMER.name],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.fixture
def somebody() -> Iterator[int]:
    """A process of another user's, which has capabilities of no kind."""
    command = ["setpriv", "--reuid", "65534", "--clear-groups", "sleep", "600"]
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + 30
            while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process.pid
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up capabilities")
def test_two_capabilities_are_enough(somebody: int, tmp_path: Path) -> None:
    """The unit's own command, with the unit's capabilities and what else can be had without systemd."""
    service = settings(SERVICE)["Service"]
    capabilities = ",".join(
        f"+{name.removeprefix('CAP_').lower()}" for name in service["CapabilityBoundingSet"].split()
    )
    arguments = service["ExecStart"].replace(COLLECTED, str(tmp_path)).split()[1:]
    libc = ctypes.CDLL(None, use_errno=True)

    def deny_write_execute() -> None:  # Linux 6.3 has it
        libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)

    def unread(*extra: str) -> str:
        result = subprocess.run(
            [
                "setpriv",
                "--no-new-privs",
                f"--bounding-set=-all,{capabilities}",
                f"--inh-caps=-all,{capabilities}",
                PTSHARE,
                *arguments,
                *extra,
            ],
            preexec_fn=deny_write_execute,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode in (0, int(service["SuccessExitStatus"])), result.stderr
        assert result.stderr == ""
        text = (tmp_path / "ptshare.prom").read_text()
        match = re.search(r"^ptshare_audit_unread_processes (\d+)$", text, re.MULTILINE)
        assert match
        return match[1]

    assert unread("--pid", str(somebody)) == "0"
    # Other processes may be closed to root itself, in a sandbox say, so of the host there is no more to ask.
    unread()
    capabilities = "+dac_read_search"  # which shows that the other one is needed
    assert unread("--pid", str(somebody)) == "1"
