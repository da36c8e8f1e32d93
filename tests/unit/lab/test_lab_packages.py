# SPDX-License-Identifier: MIT
"""Packages are fetched once, with what they need, and unpacked as on a merged /usr."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lab_fixtures import FakePath
from ptshare.lab import packages
from ptshare.lab.errors import LabError

TOOLS = ("dpkg-deb", "tar", "xz", "sh", "cp", "cat", "touch")


def make_deb(directory: Path, name: str, version: str, path: str) -> None:
    """A package of one file."""
    root = directory / f"{name}-root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(f"{name} {version}")
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.org>\n"
        "Description: test\n"
    )
    deb = directory / f"{name}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "-b", root, deb], check=True, capture_output=True)


class Archive:
    """An archive and the apt-get that serves it: ``program``, which needs ``library``."""

    def __init__(self, directory: Path, fake_path: FakePath) -> None:
        self._directory, self._path = directory, fake_path
        self.log = directory / "log"
        directory.mkdir()
        fake_path.link(*TOOLS)

    def serve(self, version: str, *, before: str = "") -> None:
        """From now on."""
        pool = self._directory / version
        pool.mkdir()
        # The library's path is one of before the merge of / and /usr.
        make_deb(pool, "program", version, "usr/bin/program")
        make_deb(pool, "library", version, "lib/library.so")
        self._path.add(
            "apt-get",
            f'echo "$@" >> {self.log}\n{before}\n'
            f'case "$*" in *?essential) echo "Inst base (1 D [all])";;\n'
            f'*" install "*) for i in base program library; do echo "Inst $i ({version} D [all])"; done;;\n'
            f"*download*) cp {pool}/*.deb .;; esac",
        )

    def calls(self) -> str:
        """What apt-get was asked."""
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def archive(tmp_path: Path, fake_path: FakePath) -> Archive:
    return Archive(tmp_path / "archive", fake_path)


def ignore(text: str) -> None:
    pass


def test_fetched_once_and_said(archive: Archive, cache_directory: Path) -> None:
    archive.serve("1.0")
    said: list[str] = []
    root = packages.fetch("program", say=said.append)
    assert (root / "usr/bin/program").read_text() == "program 1.0"
    assert (root / "usr/lib/library.so").read_text() == "library 1.0"
    assert said == ["fetching from Debian, into the cache: program 1.0, and 1 packages that they need"]
    assert "download program=1.0 library=1.0\n" in archive.calls()
    calls = archive.calls()
    assert packages.fetch("program", say=said.append) == packages.cached("program") == root
    assert archive.calls() == calls
    assert len(said) == 1
    assert cache_directory in root.parents


def test_a_newer_version_replaces_the_old(archive: Archive) -> None:
    archive.serve("1.0")
    old = packages.fetch("program", say=ignore)
    assert packages.fetch("program", say=ignore, refresh=True) == old
    archive.serve("1.1")
    assert packages.fetch("program", say=ignore) == old
    new = packages.fetch("program", say=ignore, refresh=True)
    assert (new / "usr/bin/program").read_text() == "program 1.1"
    assert sorted(path.name for path in new.parent.iterdir()) == sorted(["current", new.name])


def test_old_lists_are_refreshed(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    state = tmp_path / "updated"
    archive.serve(
        "1.0",
        before=f'case "$*" in *update) touch {state};; *download*) [ -e {state} ] || exit 100;; esac',
    )
    assert packages.fetch("program", say=ignore).is_dir()


def test_no_such_package(archive: Archive) -> None:
    archive.serve("1.0", before='echo "E: Unable to locate package program" >&2; exit 100')
    with pytest.raises(LabError, match=r"cannot get program: Unable to locate.*apt-get update"):
        packages.fetch("program", say=ignore)
    with pytest.raises(LabError, match="not in "):
        packages.cached("program")


def test_a_broken_package_leaves_nothing(archive: Archive, cache_directory: Path, tmp_path: Path) -> None:
    archive.serve("1.0")
    for deb in (tmp_path / "archive/1.0").glob("library*.deb"):
        deb.write_bytes(b"junk")
    with pytest.raises(LabError, match=r"cannot unpack library_1.0_all.deb"):
        packages.fetch("program", say=ignore)
    assert list((cache_directory / "packages/program").iterdir()) == []


def test_disk_full(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.serve("1.0")
    usage = shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LabError, match=r"not enough disk space in .*: 1 MiB free, 20 MiB needed"):
        packages.fetch("program", say=ignore)


@pytest.mark.usefixtures("fake_path")
def test_no_apt() -> None:
    with pytest.raises(LabError, match="no apt-get here: program of Debian are wanted"):
        packages.fetch("program", say=ignore)


def test_never_over_the_users_own_usr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PTSHARE_LAB", raising=False)
    with pytest.raises(LabError, match="outside the lab's guest"):
        packages.lay_over_usr(tmp_path)
