# SPDX-License-Identifier: MIT
"""``ptshare audit`` as a user runs it, on this machine."""

import contextlib
import csv
import ctypes
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from made_up import database
from mapped import children, mapped, memory
from ptshare import cli, syscalls
from ptshare.audit import host, snapshot
from ptshare.audit.collect import collect
from ptshare.cli import audit as _command  # nobody may not be able to load it later

COMMAND = [sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())", "audit"]
MIB = 1 << 20


def run(*arguments: str | bytes, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def workers() -> Iterator[list[str]]:
    """Options for three processes that have 32 MiB mapped."""
    with (
        memory(32 * MIB, "worker's table") as fd,
        children(*[partial(mapped, fd, 32 * MIB, range(16))] * 3) as pids,
    ):
        yield [word for pid in pids for word in ("--pid", str(pid))]


def test_the_table(workers: list[str]) -> None:
    result = run(*workers)
    assert (result.returncode, result.stderr) == (0, "")
    (line,) = (line for line in result.stdout.splitlines() if "  /memfd:worker's table (deleted)" in line)
    assert line.split()[:8] == ["128", "KiB", "192", "KiB", "192", "KiB", "3", "32"]
    assert ", 3 processes" not in result.stdout
    assert result.stdout.splitlines()[0].endswith(": 3 processes")


def test_json_csv_and_snapshots(workers: list[str], tmp_path: Path) -> None:
    value = json.loads(run(*workers, "--json").stdout)
    assert (value["format"], value["version"]) == ("ptshare-audit", 1)
    (item,) = (item for item in value["objects"] if item["kind"] == "memfd" and "worker" in item["name"])
    assert (item["tables"], item["needed"], item["saved_by_sharing_bytes"]) == (48, 16, 32 * 4096)
    names, *lines = csv.reader(io.StringIO(run(*workers, "--csv").stdout))
    (row,) = (dict(zip(names, line, strict=True)) for line in lines if "worker" in line[4])
    assert row["duplicate_bytes"] == str(32 * 4096)
    for name in ("saved.json", "saved.json.gz"):
        path = tmp_path / name
        result = run(*workers, "--save", str(path))
        assert (result.returncode, result.stdout) == (0, "")
        assert "/memfd:worker's table (deleted)" in run("--from", str(path)).stdout
        with path.open("rb") as file:
            again = run("--from", "-", "--json", stdin=file)
        assert json.loads(again.stdout)["objects"][0]["name"] == value["objects"][0]["name"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved.json", "saved.json.gz"]


def test_metrics_replace_the_file_whole(workers: list[str], tmp_path: Path) -> None:
    path = tmp_path / "ptshare.prom"
    path.write_text("old")
    path.chmod(0o600)
    before = path.stat().st_ino
    assert run(*workers, "--prometheus", str(path)).stdout == ""
    assert path.stat().st_ino != before
    assert path.stat().st_mode & 0o777 == 0o644
    assert "\nptshare_object_mappers{" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
    assert run(*workers, "--prometheus", "-").stdout.startswith("# HELP ptshare_page_tables_bytes ")
    # A link stays one, and what is no file is written to.
    link = tmp_path / "link.prom"
    link.symlink_to(path)
    run(*workers, "--prometheus", str(link))
    assert link.is_symlink()
    assert run(*workers, "--prometheus", "/dev/stdout").stdout.endswith("\n")


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("SVG", b"<?xml")])
def test_plots(suffix: str, begins: bytes, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    audit = database(20)
    audit.objects[0].name = "costs $5 and _x_"
    saved.write_text(snapshot.dump(audit))
    path = tmp_path / f"plot.{suffix}"
    result = run("--from", str(saved), "--plot", str(path))
    assert (result.returncode, result.stdout, result.stderr) == (3, "", "")
    data = path.read_bytes()
    assert data.startswith(begins)
    assert len(data) > 5000


def test_a_plot_of_nothing(tmp_path: Path) -> None:
    audit = database(1)
    audit.objects = []
    (tmp_path / "a").write_text(snapshot.dump(audit))
    assert run("--from", str(tmp_path / "a"), "--plot", str(tmp_path / "a.svg")).stderr == ""
    assert (tmp_path / "a.svg").exists()


def test_without_matplotlib(workers: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; from ptshare.cli import main; raise SystemExit(main())"
    )
    command = [sys.executable, "-c", code, "audit", *workers, "--plot", str(tmp_path / "a.svg")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "pip install '.[plot]'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_more_than_allowed(workers: list[str]) -> None:
    result = run(*workers, "--fail-above", "64K")
    assert result.returncode == 1
    assert "of page tables, more than 64 KiB" in result.stderr
    assert "worker's table" in result.stdout
    assert run(*workers, "--fail-above", "1G").returncode == 0
    assert run("--fail-above", "1K", "--no-physical").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pid", "0"], "wanted the number of a process, 1 to 2147483647, found '0'"),
        (["--pid", "-1"], "found '-1'"),
        (["--pid", "x"], "found 'x'"),
        (["--pid", "9" * 5000], "wanted the number of a process, 1 to 2147483647, found '99"),
        (["--pid", "2147483647"], "no process 2147483647 that has memory of its own is to be seen"),
        (["--user", "no such user"], "no such user: 'no such user'"),
        (["--fail-above", "lots"], "wanted a size such as 300GiB or 300G (powers of 1024)"),
        (["--watch", "0"], "wanted a number of seconds from 0.1 to 31536000, a year, found '0'"),
        (["--watch", "nan"], "wanted a number of seconds from 0.1"),
        (["--watch", "1e300"], "from 0.1 to 31536000, a year, found '1e300'"),
        (["--plot", "picture.pdf"], "must end in .png or .svg, which 'picture.pdf' does not"),
        (["--objects", "-3"], "wanted a number of lines from 0 to 999999999, found '-3'"),
        (["--objects", "9" * 23], "from 0 to 999999999, found '99"),
        (["--cgroup", ""], "argument --cgroup: wanted what to look for, found ''"),
        (["--command", " "], "argument --command: wanted what to look for, found ' '"),
        (["--command", "no such program"], "wanted processes of command no such program, found none"),
        (["--cgroup", "nosuch.service", "--fail-above", "1"], "wanted processes of cgroup nosuch.service, "),
        (["--cgroup", "nosuch.service", "--json"], "found none that has memory of its own"),
        (["--save", ""], "argument --save: wanted the name of a file, found an empty one"),
        (["--prometheus", ""], "argument --prometheus: wanted the name of a file"),
        (["--from", ""], "argument --from: wanted the name of a file"),
        (["--from", b"nob\xfd.json"], r"cannot read nob\xfd.json: No such file"),
        (["--json", "--csv"], "not allowed with argument"),
        (["--from", "/no/such/file"], "cannot read /no/such/file: No such file or directory"),
        (["--from", "/"], "cannot read /: Is a directory"),
        (["--from", "/dev/null"], "/dev/null is no snapshot of ptshare audit that can be read"),
        (["--from", "x", "--pid", "1"], "--pid cannot be asked of it"),
        (["--from", "x", "--watch", "1"], "leave one out"),
        (
            ["--pid", str(os.getpid()), "--save", "/no/such/directory/x"],
            "cannot write /no/such/directory/x: No such",
        ),
        (["--pid", str(os.getpid()), "--prometheus", "/proc/x"], "cannot write /proc/x: "),
        (["more"], "unrecognized arguments: more"),
    ],
)
def test_usage(arguments: list[str | bytes], words: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_watched_until_interrupted(workers: list[str]) -> None:
    with subprocess.Popen(
        [*COMMAND, *workers, "--watch", "0.1"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += "worker's table" in line
            if seen == 3:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait() == 0


def test_watched_before_the_processes_come() -> None:
    with subprocess.Popen(
        [*COMMAND, "--command", "ptshare-late", "--watch", "0.1"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        wanted = ["No process to be seen is in all that was asked for", ": 1 process"]
        with contextlib.ExitStack() as late:
            for line in process.stdout:
                if wanted[0] in line:
                    del wanted[0]
                    if not wanted:
                        break
                    command = ["bash", "-c", "exec -a ptshare-late sleep 600"]
                    child = late.enter_context(subprocess.Popen(command))
                    late.callback(child.kill)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait() == 0


def test_the_worst_of_several_rounds() -> None:
    assert _command._worst({0, 1, 3}) == 1
    assert _command._worst({0, 3}) == 3
    assert _command._worst({0, 1, 2, 3}) == 2
    assert _command._worst(set()) == 0


def test_a_snapshot_without_processes_is_shown(tmp_path: Path) -> None:
    audit = database(1)
    audit.scope, audit.processes, audit.objects, audit.unread = "command nobody", [], [], []
    (tmp_path / "a").write_text(snapshot.dump(audit))
    result = run("--from", str(tmp_path / "a"))
    assert (result.returncode, result.stderr) == (0, "")
    assert "No process to be seen is in all that was asked for: command nobody." in result.stdout


def test_page_tables_that_only_root_can_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host.Counting, "_count", lambda self: None)
    here = ["audit", "--pid", str(os.getpid()), "--json"]
    assert cli.main([*here, "--physical"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["host"]["counted_bytes"] is None
    assert "--physical: page tables could not be counted page by page" in err
    assert cli.main([*here, "--no-physical"]) == 0


def test_a_reader_that_goes() -> None:
    result = subprocess.run(
        ["sh", "-c", '"$@" --no-physical | head -1 > /dev/null', "sh", *COMMAND],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")


def become_nobody() -> None:
    """If one can; else one is nobody who may read others already."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)


def keep_to_oneself() -> None:
    """Not even processes of the same user may read this one. prctl(2), PR_SET_DUMPABLE"""
    syscalls.libc.prctl(4, 0, 0, 0, 0)


def test_who_may_not_read_others_is_told_so() -> None:
    with children(*[keep_to_oneself] * 3) as pids:
        value, status = seen_by_nobody([word for pid in pids for word in ("--pid", str(pid))])
    assert status == 3
    assert [process["read"] for process in value["processes"]] == [False] * 3
    assert all(process["vm_pte_bytes"] > 0 for process in value["processes"])
    (unread,) = value["unread"]
    assert unread["count"] == 3
    assert unread["reason"] in ("Permission denied", "Operation not permitted")
    assert unread["examples"][0].startswith(f"{pids[0]} (")


def apart_with_others_hidden() -> None:
    """This process and its like get a /proc that shows those of their own user alone. proc(5)"""
    clone_newns, ms_rec_private = 0x20000, 0x44000
    syscalls.checked(syscalls.libc.unshare(clone_newns))
    syscalls.checked(syscalls.libc.mount(b"none", b"/", None, ctypes.c_ulong(ms_rec_private), None))
    subprocess.run(["mount", "-t", "proc", "-o", "hidepid=invisible", "proc", "/proc"], check=True)


def test_where_others_are_hidden() -> None:
    """What is not seen is said, and is no success."""
    if os.geteuid():
        return  # nobody else may mount; recorded in tests/unit/audit/test_audit_collect.py
    value, status = seen_by_nobody([], prepare=apart_with_others_hidden)
    assert status == 3
    assert value["host"]["partial"] == [
        "/proc is mounted with hidepid=invisible: other users' processes are not seen"
    ]
    assert {process["user"] for process in value["processes"]} <= {"nobody", "65534"}


def test_in_a_container() -> None:
    """A PID namespace: other processes are there, and their page tables count."""
    if os.geteuid():
        return  # as above
    command = ["unshare", "--pid", "--fork", "--mount-proc", *COMMAND, "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 3, result.stderr
    value = json.loads(result.stdout)
    (reason,) = value["host"]["partial"]
    assert reason == "in a PID namespace (a container): processes outside of it are not seen"
    assert len(value["processes"]) == 1


def seen_by_nobody(
    options: list[str], prepare: Callable[[], object] = lambda: None
) -> tuple[dict[str, Any], int]:
    """The audit as JSON, and the exit status."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 9
        try:
            prepare()
            become_nobody()
            with contextlib.redirect_stdout(io.StringIO()) as out:
                status = cli.main(["audit", *options, "--no-physical", "--json"])
            os.write(writer, out.getvalue().encode())
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as file:
        value = json.loads(file.read())
    return value, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_of_one_process_it_is_quick() -> None:
    """Most of it is the start of Python: compared with that, since the machine does other things, too.

    bench/audit.py has the time itself: 65 ms where Python alone takes 17.
    """
    alone, audit = [], []
    # This process itself has grown with the tests before.
    with subprocess.Popen(["sleep", "600"]) as small:
        for _ in range(12):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", ""], check=True)
            between = time.perf_counter()
            assert run("--pid", str(small.pid)).returncode == 0
            alone.append(between - began)
            audit.append(time.perf_counter() - between)
        small.kill()
    assert min(audit) < 9 * min(alone)


def test_an_audit_takes_little_memory() -> None:
    script = (
        "from ptshare.cli import main; main(['audit', '--no-physical', '--csv']); import resource, sys; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    # By a shell: of a child that this process itself makes, its own memory would count.
    result = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", script], capture_output=True, text=True
    )
    assert int(result.stderr.split()[-1]) < 100 << 10


def test_the_whole_host_agrees_with_itself() -> None:
    value = json.loads(run("--json").stdout)
    host = value["host"]
    assert host["explained_bytes"] <= host["page_tables_bytes"]
    assert host["attributed_bytes"] == sum(item["tables_bytes"] for item in value["objects"])
    assert host["vm_pte_bytes"] == sum(process["vm_pte_bytes"] for process in value["processes"])
    assert {process["pid"] for process in value["processes"]} >= {os.getpid()}
    assert collect(count=False).host.name == host["name"]
