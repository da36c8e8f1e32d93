# SPDX-License-Identifier: MIT
"""``ptshare run`` on this machine's kernel, which cannot share: programs run as ever.

That they share is shown in tests/integration/test_run.py.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ptshare import cli, preload
from ptshare.run import launch

COMMAND = [sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())", "run"]
RANDOM = Path(__file__).parents[2] / "integration/random_calls.py"


def run(*arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env={**os.environ, **(env or {})}
    )


def test_the_program_runs_and_a_line_says_what_it_runs_without() -> None:
    result = run("--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.returncode, result.stdout) == (3, "out\n")
    said = "ptshare run: page tables stay ordinary: this kernel does not have MAP_SHARED_PT\n"
    assert result.stderr == f"{said}err\n"
    assert run("--quiet", "--", "sh", "-c", "echo err >&2").stderr == "err\n"


def test_it_is_the_same_process() -> None:
    with subprocess.Popen(
        [*COMMAND, "--", "sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.communicate()[0] == f"{process.pid}\n"


@pytest.mark.parametrize("report", [(), ("--report",), ("--json",)])
@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", ":"], 0),
        (["sh", "-c", "exit 77"], 77),
        (["sh", "-c", "kill -9 $$"], -9),
        (["ptshare-no-such-program"], 127),
        (["/etc/passwd"], 126),
        (["/"], 126),
        ([""], 127),
    ],
)
def test_exit_status(report: Sequence[str], command: list[str], status: int) -> None:
    if status < 0 and report:
        status = 128 - status
    result = run(*report, "--", *command)
    assert result.returncode == status
    if status in (126, 127):
        assert f"ptshare run: {command[0]}: " in result.stderr or "found an empty word" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--"],
        ["--min-size", "big", "--", "true"],
        ["--min-size", "4K", "--", "true"],
        ["--min-size", "-1", "--", "true"],
        ["--nonsense", "--", "true"],
        ["--report=/no/such/directory/report", "--", "true"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr
    assert result.stdout == ""


def test_the_environment_has_the_library_first(monkeypatch: pytest.MonkeyPatch) -> None:
    options = launch.Options(64 << 20, ("*.db", "anonymous"))
    made = launch.environment(options, {"LD_PRELOAD": "/lib/other.so", "HOME": "/"})
    assert made["LD_PRELOAD"] == f"{preload.library()}:/lib/other.so"
    assert made["PTSHARE_MIN_SIZE"] == str(64 << 20)
    assert made["PTSHARE_ONLY"] == "*.db\nanonymous"
    assert made["HOME"] == "/"
    assert "PTSHARE_LOG" not in made
    monkeypatch.setattr(preload, "library", lambda: Path("/my programs/library.so"))
    with pytest.raises(preload.NotBuiltError, match="colon or space"):
        launch.environment(options, {})


def test_a_library_that_was_not_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(preload, "__file__", str(tmp_path / "__init__.py"))
    assert cli.main(["run", "--quiet", "--", "true"]) == 2
    assert "install gcc and libc6-dev, then ptshare again" in capsys.readouterr().err


def test_the_library_is_in_the_program_and_in_its_children() -> None:
    code = (
        "grep -c ptshare/preload/_library /proc/self/maps; sh -c 'grep -c preload/_library /proc/self/maps'"
    )
    found = run("--quiet", "--", "sh", "-c", code).stdout.split()
    assert len(found) == 2
    assert all(int(lines) > 0 for lines in found)


def test_the_library_exports_calls_alone() -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(preload.library())], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names == {
        *("mmap", "mmap64", "munmap", "mremap", "mprotect", "pkey_mprotect", "madvise"),
        *("mlock", "mlock2", "munlock", "shmat", "shmdt", "_exit", "_Exit"),
    }


def test_calls_do_the_same() -> None:
    command = [sys.executable, str(RANDOM), "7", "20"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run("--quiet", "--min-size", "2M", "--", *command).stdout == plain.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_forwarded(number: signal.Signals) -> None:
    code = f"trap 'echo got; exit 5' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        # nohup has the tests ignore SIGHUP.
        ["env", "--default-signal", *COMMAND, "--report", "--", "sh", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # no terminal, as a service has none
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "got\n"
        assert process.wait() == 5


def test_the_report_says_why_nothing_was_shared(tmp_path: Path) -> None:
    path = tmp_path / "report"
    result = run(f"--report={path}", "--", "sh", "-c", ":")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert path.read_text() == "ptshare run: nothing was shared: this kernel does not have MAP_SHARED_PT\n"
    data = json.loads(run("--json", "--", "sh", "-c", ":").stderr)
    assert data["not_shared_because"] == "this kernel does not have MAP_SHARED_PT"


@pytest.mark.parametrize("option", ["--report", "--rep", "--r"])
@pytest.mark.parametrize("between", [[], ["--"]])
def test_the_word_after_report_is_the_program(option: str, between: list[str], tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    result = run(option, *between, str(program))
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert "nothing was shared" in result.stderr
    assert program.read_text().endswith("echo ran\n")


def test_a_file_that_is_a_word_of_its_own(tmp_path: Path) -> None:
    """It is neither written nor run."""
    # The test's own file: a command line that is wrong here writes to it.
    file = tmp_path / "file"
    file.write_text("kept")
    result = run("--report", str(file), "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith(f"found '{file}'; a file is --report={file}\n")
    assert file.read_text() == "kept"


def test_the_word_of_a_program_stays_its_own() -> None:
    assert run("--quiet", "--", "echo", "--report").stdout == "--report\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_report_that_cannot_be_written_changes_no_status(options: list[str]) -> None:
    result = run("--report=/dev/full", *options, "--", "sh", "-c", "echo ran; exit 5")
    assert (result.returncode, result.stdout) == (5, "ran\n")
    assert result.stderr == (
        "ptshare run: cannot write the report to '/dev/full': No space left on device; "
        "the program ended with 5\n"
    )


def test_nothing_is_left_in_the_directory_for_temporary_files(tmp_path: Path) -> None:
    run("--report", "--", "sh", "-c", ":", env={"TMPDIR": str(tmp_path)})
    with subprocess.Popen(
        [*COMMAND, "--report", "--", "sleep", "60"], env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as process:
        deadline = time.monotonic() + 60
        while not os.listdir(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif("os.geteuid() != 0", reason="only root makes a program run as another user")
def test_the_loader_leaves_setuid_programs_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    program = tmp_path / "grep"
    shutil.copy("/bin/grep", program)
    program.chmod(0o4755)
    for parent in program.parents[:-1]:
        if parent.stat().st_uid == 0 and str(parent) != "/tmp":
            parent.chmod(parent.stat().st_mode | 0o011)
    command = ["setpriv", "--reuid=65534", "--clear-groups", str(program), "-c", "preload/_library"]
    result = run("--quiet", "--", *command, "/proc/self/maps")
    assert (result.stdout, result.stderr) == ("0\n", "")


@pytest.mark.parametrize("report", [(), ("--report=/dev/null",)])
def test_what_a_program_inherits(report: Sequence[str]) -> None:
    """A closed pipe kills, as in a shell; what nohup ignored still is; open descriptors are passed on."""
    reader, writer = os.pipe()
    try:
        # Not a Python program: that would ignore SIGPIPE and SIGXFSZ by itself.
        shell = f"trap '' HUP USR1; exec {' '.join(map(shlex.quote, [*COMMAND, '--quiet', *report]))} -- "
        look = "grep SigIgn /proc/self/status; ls /proc/self/fd"
        result = subprocess.run(
            ["sh", "-c", shell + f"sh -c {shlex.quote(look)}"],
            capture_output=True,
            text=True,
            check=True,
            pass_fds=(writer,),
        )
    finally:
        os.close(reader)
        os.close(writer)
    ignored, *descriptors = result.stdout.split("\n")
    assert int(ignored.split()[1], 16) == 1 << signal.SIGHUP - 1 | 1 << signal.SIGUSR1 - 1
    assert str(writer) in descriptors
