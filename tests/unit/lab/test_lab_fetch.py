# SPDX-License-Identifier: MIT
"""The source comes from apt, once; what can be wrong with apt is said in one line."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lab_fixtures import FakePath
from ptshare.lab import cache, fetch
from ptshare.lab.errors import LabError
from ptshare.lab.progress import Progress

TOOLS = ("dpkg-deb", "tar", "xz", "sh", "cp", "setpriv", "env", "rm", "touch", "cat")
MAKEFILE = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\n"


def make_deb(directory: Path) -> Path:
    """A package as Debian's, with a tree of one file."""
    tree = directory / "linux-source-6.12"
    tree.mkdir(parents=True)
    (tree / "Makefile").write_text(MAKEFILE)
    root = directory / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "usr/src").mkdir(parents=True)
    archive = root / "usr/src/linux-source-6.12.tar.xz"
    subprocess.run(["tar", "-C", directory, "-cJf", archive, tree.name], check=True)
    (root / "DEBIAN/control").write_text(
        "Package: linux-source-6.12\nVersion: 6.12.117-1\nArchitecture: all\nMaintainer: T <t@example.org>\n"
        "Description: test\n"
    )
    deb = directory / "linux-source-6.12_6.12.117-1_all.deb"
    subprocess.run(["dpkg-deb", "-b", root, deb], check=True, capture_output=True)
    return deb


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    return make_deb(tmp_path / "package")


def ignore(step: Progress) -> None:
    pass


def test_fetch_and_unpack_once(deb: Path, fake_path: FakePath, cache_directory: Path) -> None:
    fake_path.link(*TOOLS)
    fake_path.add("apt-get", f'[ "$2" = download ] && cp {deb} .')
    stages: list[str] = []
    source = fetch.fetch(lambda step: stages.append(step.stage))
    assert source.version == "6.12.117-1"
    assert source.release == "6.12.117"
    assert (source.path / "Makefile").read_text() == MAKEFILE
    assert {"fetch", "unpack"} <= set(stages)
    assert sorted(path.name for path in (cache_directory / "source").iterdir()) == ["6.12.117-1", "current"]
    fake_path.add("apt-get", "exit 1")
    assert fetch.fetch(ignore) == source


def test_old_lists_are_refreshed(deb: Path, fake_path: FakePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    fake_path.link(*TOOLS)
    state = deb.parent / "updated"
    fake_path.add(
        "apt-get",
        f'case $2 in update) touch {state};; download) [ -e {state} ] || {{ echo "E: 404" >&2; exit 100; }};'
        f" cp {deb} .;; esac",
    )
    assert fetch.fetch(ignore).version == "6.12.117-1"


def test_no_such_package(fake_path: FakePath) -> None:
    fake_path.link("dpkg-deb", "sh")
    fake_path.add("apt-get", 'echo "E: Unable to locate package linux-source-6.12" >&2; exit 100')
    with pytest.raises(LabError, match=r"cannot get linux-source-6\.12: Unable to locate.*apt-get update"):
        fetch.fetch(ignore)


@pytest.mark.usefixtures("fake_path")
def test_no_apt() -> None:
    with pytest.raises(LabError, match="no apt-get here"):
        fetch.fetch(ignore)


def test_disk_full(fake_path: FakePath, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_path.link("dpkg-deb")
    fake_path.add("apt-get", "exit 0")
    usage = shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LabError, match=r"not enough disk space in .*: 1 MiB free, 200 MiB needed"):
        fetch.fetch(ignore)


def test_a_broken_archive_leaves_nothing(deb: Path, fake_path: FakePath, cache_directory: Path) -> None:
    fake_path.link(*TOOLS[1:])
    fake_path.add(
        "dpkg-deb",
        'case $1 in -f) echo 6.12-1;; -x) mkdir -p "$3"; echo junk > "$3/linux-source-6.12.tar.xz";; esac',
    )
    fake_path.link("mkdir")
    fake_path.add("apt-get", f'[ "$2" = download ] && cp {deb} .')
    with pytest.raises(LabError, match="cannot unpack"):
        fetch.fetch(ignore)
    assert fetch.current() is None
    assert [path.suffix for path in cache.directory("source").iterdir()] == [".deb"]
