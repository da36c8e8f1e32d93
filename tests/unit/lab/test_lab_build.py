# SPDX-License-Identifier: MIT
"""Configuring, building and the cache of images, with a make(1) of the test's own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab_fixtures import FakePath
from ptshare.lab import build, build_image, cache, configure, fetch, image
from ptshare.lab.errors import LabError
from ptshare.lab.kernel_dir import kernel_dir
from ptshare.lab.progress import Progress, Tracker
from ptshare.lab.series import first


def test_options_of_fragments_and_configurations() -> None:
    text = '# comment\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=n\nCONFIG_D="x y"\nCONFIG_E=0x1\n'
    assert configure.options(text) == {
        "CONFIG_A": "y",
        "CONFIG_B": "n",
        "CONFIG_C": "n",
        "CONFIG_D": '"x y"',
        "CONFIG_E": "0x1",
    }


def test_dropped_options_are_named() -> None:
    wanted = {"CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_PTSHARE": "y", "CONFIG_N": "16"}
    have = "CONFIG_A=y\nCONFIG_N=8\n"
    assert configure.dropped(wanted, have) == ["CONFIG_PTSHARE=y", "CONFIG_N=16"]


def test_a_fragment_stands_on_another(kernel: Path) -> None:
    (kernel / "config/debug.config").write_text("# based on: base\nCONFIG_PROVE_LOCKING=y\n")
    names = [path.name for path in kernel_dir().fragments("debug")]
    assert names == ["base.config", "debug.config"]


def test_a_part_of_the_series_is_in_the_kernels_name(kernel: Path, tools: FakePath, tmp_path: Path) -> None:
    """And the option that the series brings may be unknown as yet; no other one may."""
    tools.link("grep", "mv")
    # A Kconfig that knows neither of these options.
    tools.add(
        "make",
        "for word; do case $word in O=*) cd ${word#O=};; esac; done\n"
        "[ $word = tinyconfig ] && : > .config && exit\n"
        "grep -v -e PTSHARE -e NOPE .config > new; mv new .config",
    )
    base, out = kernel / "config/base.config", tmp_path / "out"
    base.write_text("CONFIG_SMP=y\nCONFIG_PTSHARE=y\n")
    configure.configure(tmp_path, out, first(kernel_dir(), 0), "base", [], [])
    assert 'CONFIG_LOCALVERSION="-patches-0"' in (out / ".config").read_text()
    with pytest.raises(LabError, match="Kconfig dropped CONFIG_PTSHARE=y of"):
        configure.configure(tmp_path, out, kernel_dir(), "base", [], [])
    assert "LOCALVERSION" not in (out / ".config").read_text()
    base.write_text("CONFIG_SMP=y\nCONFIG_PTSHARE=y\nCONFIG_NOPE=y\n")
    with pytest.raises(LabError, match="Kconfig dropped CONFIG_NOPE=y of"):
        configure.configure(tmp_path, out, first(kernel_dir(), 0), "base", [], [])


@pytest.mark.usefixtures("kernel")
def test_an_unknown_configuration() -> None:
    with pytest.raises(LabError, match="unknown kernel configuration 'nope'; there are: base"):
        build_image("nope")


@pytest.mark.usefixtures("fake_path")
def test_missing_tools_and_their_packages() -> None:
    with pytest.raises(LabError, match=r"missing: .*flex.*; install with: apt-get install .*flex"):
        build.build(Path("tree"), Path("out"), Path("log"), print)


@pytest.fixture
def tools(fake_path: FakePath, monkeypatch: pytest.MonkeyPatch) -> FakePath:
    """All that a build needs; gelf.h stands for any file."""
    fake_path.link("setpriv", "sh", "env", "sleep", "cat", "mkdir")
    for name in ("gcc", "ld", "flex", "bison", "bc"):
        fake_path.add(name, "echo 12.2")
    monkeypatch.setattr("ptshare.lab.build.need_tools", lambda *_: None)
    return fake_path


def test_the_compilers_first_error_is_the_message(tools: FakePath, tmp_path: Path) -> None:
    tools.add(
        "make", "echo '  CC      mm/a.o'; echo 'mm/a.c:7:1: error: no'; echo 'make: *** [x] Error 2'; exit 2"
    )
    with pytest.raises(LabError, match=r"does not build: mm/a\.c:7:1: error: no; log: .*/log"):
        build.build(tmp_path, tmp_path, tmp_path / "log", lambda _: None)
    assert "CC      mm/a.o" in (tmp_path / "log").read_text()


def test_a_full_disk_is_named(tools: FakePath, tmp_path: Path) -> None:
    tools.add("make", "echo 'fatal error: error writing to /tmp/x.s: No space left on device'; exit 2")
    with pytest.raises(LabError, match=r"the disk of .* is full; free some space and run again"):
        build.build(tmp_path, tmp_path, tmp_path / "log", lambda _: None)


def test_what_has_another_file_in_it_is_made_anew(tools: FakePath, tmp_path: Path) -> None:
    """ccache would take the object of another kernel's image, if all sizes happened to be the same."""
    tools.add("make", f'for last; do :; done; echo "$last $CCACHE_DISABLE" >> {tmp_path}/made')
    build.build(tmp_path, tmp_path, tmp_path / "log", lambda _: None)
    assert (tmp_path / "made").read_text() == "arch/x86/realmode/ 1\nvmlinux \nbzImage 1\n"


def test_progress_counts_and_remembers(tools: FakePath, tmp_path: Path) -> None:
    steps = "for i in 1 2 3; do echo \"  CC      mm/$i.o\"; done; echo '  note'"
    tools.add("make", f'case "$*" in *vmlinux) {steps} ;; esac')
    seen: list[Progress] = []
    build.build(tmp_path, tmp_path, tmp_path / "log", seen.append)
    assert seen[0].total > 1000
    assert (tmp_path / ".ptshare-steps").read_text() == "3"


def test_time_left() -> None:
    seen: list[Progress] = []
    tracker = Tracker(seen.append, "build", total=100, already=40)
    tracker._started -= 30
    tracker._reported -= 1
    tracker.step(30)
    assert (seen[-1].done, seen[-1].total) == (70, 100)
    assert seen[-1].seconds_left == pytest.approx(30, rel=0.1)


def test_killing_the_lab_ends_make_and_its_children(tools: FakePath, tmp_path: Path) -> None:
    """Even by SIGKILL, which nobody can catch."""
    alive = tmp_path / "alive"
    tools.add("make", f"trap 'kill $!; rm -f {alive}; exit 1' TERM; echo x > {alive}; sleep 60 & wait")
    tools.link("rm")
    program = (
        "from pathlib import Path; from ptshare.lab import build; build.need_tools = lambda *_: None;"
        f"p = Path({str(tmp_path)!r}); build.build(p, p, p / 'log', lambda _: None)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    _wait(alive.exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait(lambda: not alive.exists())


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.usefixtures("tools")
def test_an_image_of_the_same_content_is_used_again(kernel: Path) -> None:
    source = cache.directory("source")
    (source / "current").write_text("6.12.1-1\n")
    version = fetch.current()
    assert version == "6.12.1-1"
    directory = cache.directory("images") / f"base-{image._key(version, kernel_dir(), 'base')}"
    directory.mkdir()
    (directory / "bzImage").write_bytes(b"kernel")
    found = build_image()
    assert found.bzimage == directory / "bzImage"
    (kernel / "src/new.c").write_text("x\n")
    assert image._key(version, kernel_dir(), "base") not in directory.name


def test_the_oldest_entries_are_pruned(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        os.utime(tmp_path / str(number), (number, number))
    cache.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


@pytest.mark.usefixtures("cache_directory")
def test_a_lock_tells_who_waits() -> None:
    program = (
        "import time; from ptshare.lab import cache\n"
        "with cache.lock('build'): print('has it', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with cache.lock("build", waiting=holder.kill):
            pass
        assert holder.wait() == -signal.SIGKILL
