# SPDX-License-Identifier: MIT
"""What a package needs is asked of apt, as on a machine with nothing installed."""

from pathlib import Path

import pytest

from lab_fixtures import FakePath
from ptshare.lab import apt
from ptshare.lab.errors import LabError

SIMULATION = """
Reading package lists...
Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []
Inst libssl3 [3.0.1-1] (3.0.22-1~deb12u2 Debian-Security:12/oldstable-security [amd64])
Inst redis-tools (5:7.0.15-1~deb12u10 Debian-Security:12/oldstable-security [amd64])
Conf redis-tools (5:7.0.15-1~deb12u10 Debian-Security:12/oldstable-security [amd64])
"""


def test_closure(fake_path: FakePath, tmp_path: Path) -> None:
    """Without what every Debian has; and with an empty list of what is installed."""
    essential, all_of_it = tmp_path / "essential", tmp_path / "all"
    all_of_it.write_text(SIMULATION)
    essential.write_text("".join(SIMULATION.splitlines(keepends=True)[:3]))
    fake_path.link("sh", "cat", "tee")
    fake_path.add(
        "apt-get",
        f'echo "$@" >> {tmp_path}/log\n'
        f'for i; do case $i in Dir::State::status=*) cat "${{i#*=}}" >> {tmp_path}/installed;; esac; done\n'
        f'case "$*" in *"install ?essential") cat {essential};; *) cat {all_of_it};; esac',
    )
    assert apt.closure("redis-tools") == {"libssl3": "3.0.22-1~deb12u2", "redis-tools": "5:7.0.15-1~deb12u10"}
    assert (tmp_path / "installed").read_text() == ""
    calls = (tmp_path / "log").read_text().splitlines()
    assert all(" -s " in call and "--no-install-recommends" in call for call in calls)


def test_download_is_all_or_nothing(fake_path: FakePath, tmp_path: Path) -> None:
    fake_path.link("sh", "touch")
    fake_path.add("apt-get", 'touch a.deb; echo "E: 404 Not Found" >&2; exit 100')
    with pytest.raises(apt.Failure, match="404 Not Found"):
        apt.download(tmp_path, "a", "b")
    assert list(tmp_path.glob("*.deb")) == []
    fake_path.add("apt-get", "touch a.deb b.deb")
    assert [deb.name for deb in apt.download(tmp_path, "a", "b")] == ["a.deb", "b.deb"]


def test_lists_are_refreshed_once(
    fake_path: FakePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    fake_path.link("sh")
    fake_path.add("apt-get", f'echo "$@" >> {tmp_path}/log')
    tries = []

    def fail() -> None:
        tries.append(1)
        raise apt.Failure("old lists")

    with pytest.raises(apt.Failure, match="old lists"):
        apt.with_fresh_lists(fail)
    assert len(tries) == 2
    assert (tmp_path / "log").read_text() == "-q update\n"


@pytest.mark.usefixtures("fake_path")
def test_no_apt() -> None:
    with pytest.raises(LabError, match="no apt-get here: it is needed for this"):
        apt.need_apt("it is needed for this")
