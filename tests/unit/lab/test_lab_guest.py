# SPDX-License-Identifier: MIT
"""QEMU's command line, the guest's ways to end, and what the command line says of them; QEMU is a script
here.
"""

import sys
from pathlib import Path

import pytest

from lab_fixtures import FakePath
from ptshare.cli import main
from ptshare.lab import kvm, machine, run_guest
from ptshare.lab.console import Report
from ptshare.lab.errors import LabError
from ptshare.lab.guest import GuestResult
from ptshare.lab.image import Image

IMAGE = Image(Path("/nowhere/bzImage"), "base", "6.12.1-1")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 << 30), ("512M", 512 << 20), ("1.5g", 3 << 29), ("256", 256 << 20), ("2GiB", 2 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert machine.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "4X", "four"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(LabError, match="memory size"):
        machine.parse_size(text)


def test_processors_are_packages(fake_path: FakePath) -> None:
    """SeaBIOS's MP table lists one processor a package."""
    fake_path.add("qemu-system-x86_64", "echo QEMU emulator version 7.2.22")
    command = machine.command(
        machine.Machine(Path("bz"), 2 << 30, 4, False, Path("/tmp/a,b"), {"stdout": 7}, terminal=False)
    )
    assert command[command.index("-smp") + 1] == "4,sockets=4,cores=1,threads=1"
    assert command[command.index("-m") + 1] == "2048M"
    assert "file,id=console,path=/tmp/a,,b" in command
    assert "virtserialport,name=ptshare.stdout,chardev=stdout" in command


def test_the_scratch_disk_is_a_descriptor(fake_path: FakePath) -> None:
    fake_path.add("qemu-system-x86_64", "echo QEMU emulator version 7.2.22")

    def words(scratch: int | None) -> str:
        what = machine.Machine(Path("bz"), 2 << 30, 4, False, Path("c"), {}, scratch)
        return " ".join(machine.command(what))

    assert "-drive file=/proc/self/fd/9,if=none,id=scratch,format=raw," in words(9)
    assert "-device virtio-blk-pci,drive=scratch" in words(9)
    assert "virtio-blk" not in words(None)


def test_a_clock_that_counts_instructions(fake_path: FakePath) -> None:
    """The guest is told the frequency of that clock, not of the host's."""
    fake_path.add("qemu-system-x86_64", "echo QEMU emulator version 7.2.22")
    what = machine.Machine(Path("bz"), 2 << 30, 4, False, Path("c"), icount=True)
    words = " ".join(machine.command(what))
    assert "-accel tcg,thread=single," in words
    assert "-icount shift=0,sleep=off" in words
    assert "tsc_early_khz=1000000 tsc=reliable no_timer_check norandmaps " in words
    assert "-icount" not in machine.command(machine.Machine(Path("bz"), 2 << 30, 4, False, Path("c")))


def test_the_scratch_disk_is_sparse_and_leaves_no_file(fake_path: FakePath, cache_directory: Path) -> None:
    fake_path.link("setpriv", "sh", "stat")
    fake_path.add(
        "qemu-system-x86_64",
        '[ "$1" = --version ] && echo "QEMU emulator version 7.2.22" && exit\n'
        "for word; do case $word in file=*) disk=${word%%,*}; disk=${disk#file=};; esac; done\n"
        'echo "$(stat -Lc "%s bytes, %b blocks, %h names" $disk)" >&2; exit 1',
    )
    with pytest.raises(LabError, match=f"{2 << 30} bytes, 0 blocks, 0 names$"):
        run_guest(["true"], image=IMAGE)
    (run,) = (cache_directory / "runs").iterdir()
    assert sorted(file.name for file in run.iterdir()) == ["console.log", "qemu.log"]


def test_without_virtme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "virtme", None)
    with pytest.raises(LabError, match=r"in a checkout of ptshare: pip install '\.\[lab\]'$"):
        machine.command(machine.Machine(Path("bz"), 2 << 30, 4, False, Path("c")))


@pytest.mark.usefixtures("fake_path")
def test_without_qemu() -> None:
    with pytest.raises(LabError, match=r"QEMU is missing .* apt-get install qemu-system-x86"):
        run_guest(["true"], image=IMAGE)


def test_qemu_that_cannot_start(fake_path: FakePath) -> None:
    fake_path.link("setpriv", "sh")
    fake_path.add(
        "qemu-system-x86_64",
        '[ "$1" = --version ] && echo "QEMU emulator version 7.2.22" && exit\n'
        'echo "qemu-system-x86_64: cannot set up guest memory: Cannot allocate memory" >&2; exit 1',
    )
    with pytest.raises(LabError, match=r"QEMU did not start the guest: .*Cannot allocate memory"):
        run_guest(["true"], image=IMAGE)


@pytest.mark.parametrize(("crashes", "starts"), [(1, 2), (9, 2)], ids=["once", "always"])
def test_qemu_that_crashes_is_started_once_more(
    fake_path: FakePath, tmp_path: Path, crashes: int, starts: int
) -> None:
    fake_path.link("setpriv", "sh", "wc")
    fake_path.add(
        "qemu-system-x86_64",
        '[ "$1" = --version ] && echo "QEMU emulator version 7.2.22" && exit\n'
        f"echo start >> {tmp_path}/starts\n"
        f"[ $(wc -l < {tmp_path}/starts) -le {crashes} ] && echo crashing >&2 && kill -SEGV $$\n"
        "echo no such machine >&2; exit 1",
    )
    with pytest.raises(LabError, match="crashing" if crashes > 1 else "no such machine"):
        run_guest(["true"], image=IMAGE, icount=True)  # no look at KVM before
    assert (tmp_path / "starts").read_text().count("start") == starts


def test_kvm_that_hangs_is_not_used(
    fake_path: FakePath, monkeypatch: pytest.MonkeyPatch, cache_directory: Path
) -> None:
    fake_path.link("setpriv", "sleep", "sh")
    fake_path.add("qemu-system-x86_64", "exec sleep 60")
    monkeypatch.delenv("PTSHARE_KVM", raising=False)
    monkeypatch.setattr(kvm, "_FIRST_OUTPUT_SECONDS", 0.3)
    monkeypatch.setattr("os.access", lambda *_: True)
    assert not kvm.works(Path("bz"))
    monkeypatch.setattr(kvm, "_FIRST_OUTPUT_SECONDS", 60)
    fake_path.add("qemu-system-x86_64", "echo 'VFS: Unable to mount root fs on unknown-block(0,0)'")
    assert not kvm.works(Path("bz"))  # remembered
    (cache_directory / "kvm").unlink()
    assert kvm.works(Path("bz"))


REPORT = Report("BUG", "BUG: Bad page state", 7)


@pytest.mark.parametrize(
    ("status", "timed_out", "reports", "exit_status", "words"),
    [
        (0, False, (), 0, None),
        (7, False, (), 7, None),
        (0, False, (REPORT,), 120, "Bad page state; see /c:7"),
        (0, False, (REPORT, REPORT), 120, "and 1 more"),
        (None, False, (), 121, "ended before the command did"),
        (None, True, (), 124, "its time was up"),
    ],
)
def test_how_a_run_ended(
    status: int | None, timed_out: bool, reports: tuple[Report, ...], exit_status: int, words: str | None
) -> None:
    result = GuestResult(status, timed_out, reports, Path("/c"), 1.0)
    assert result.exit_status == exit_status
    assert result.ok == (exit_status == 0)
    complaint = result.complaint()
    assert complaint is None if words is None else words in str(complaint)


@pytest.mark.usefixtures("kernel", "fake_path")
@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "--config", "nope"],
        ["run", "--config", "nope", "--", "true"],
        ["run"],
        ["fetch"],
        ["build"],
        ["shell", "--config", "nope"],
    ],
)
def test_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", *arguments]) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith("lab: fetching")]
    assert len(lines) == 1
    assert lines[0].startswith("lab: ")
