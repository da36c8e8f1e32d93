# SPDX-License-Identifier: MIT
"""contrib/ansible/gather.yml, for real, on hosts that are all this one."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ptshare.audit import snapshot

PLAYBOOK = Path(__file__).parents[3] / "contrib/ansible/gather.yml"
PROGRAMS = Path(sys.executable).parent


class Site:
    """A fleet, and the directories that it uses."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.temporary = base / "tmp"
        self.gathered = base / "gathered"
        self.home = base / "home"
        for path in (self.temporary, self.home):
            path.mkdir()
        self._hosts: dict[str, dict[str, object]] = {}

    def add(self, name: str, command: Path, *options: str) -> None:
        """A host, and what its ptshare is."""
        self._hosts[name] = {"ptshare_command": str(command), "ptshare_options": options}

    def script(self, name: str, text: str) -> Path:
        path = self.base / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def gather(self, destination: str = "") -> subprocess.CompletedProcess[str]:
        inventory = self.base / "inventory.json"
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
        }
        inventory.write_text(json.dumps({"all": {"hosts": self._hosts, "vars": common}}))
        return subprocess.run(
            [
                PROGRAMS / "ansible-playbook",
                "-i",
                inventory,
                "-e",
                f"destination={destination or self.gathered}",
                PLAYBOOK,
            ],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "TMPDIR": str(self.temporary),
                "LC_ALL": "C.UTF-8",
                "ANSIBLE_NOCOLOR": "1",
            },
            umask=0o022,  # which lets all read what is not guarded
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def left(self) -> list[Path]:
        """Directories of the playbook's that were not removed."""
        return list(self.temporary.glob("ptshare-*"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_snapshots_of_all_hosts(site: Site) -> None:
    # Who runs the tests may be root or not: 0 or 3.
    site.add("one.example", PROGRAMS / "ptshare", "--no-physical")
    site.add("two.example", PROGRAMS / "ptshare", "--pid", str(os.getpid()))
    modes = site.base / "modes"
    site.add(
        "three.example",
        site.script(
            "partial",
            f'for file; do :; done; stat -c %a "${{file%/*}}" > {modes}; {PROGRAMS}/ptshare "$@"; exit 3',
        ),
        "--no-physical",
    )
    result = site.gather()
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(path.name for path in site.gathered.iterdir()) == [
        "one.example.json.gz",
        "three.example.json.gz",
        "two.example.json.gz",
    ]
    for path in site.gathered.iterdir():
        audit = snapshot.read(str(path))
        assert audit.host.page_tables > 0
        assert bool(audit.scope) == path.name.startswith("two")
    assert stat.S_IMODE(site.gathered.stat().st_mode) == 0o700
    assert modes.read_text() == "700\n"
    assert site.left() == []


def test_a_host_that_fails_leaves_nothing_and_stops_nobody(site: Site) -> None:
    site.add("bad.example", site.script("bad", 'for file; do :; done; echo half > "$file"; exit 2'))
    site.add("good.example", PROGRAMS / "ptshare", "--no-physical")
    site.add("none.example", site.base / "no-such-program")
    result = site.gather()
    assert result.returncode == 2, result.stdout + result.stderr
    assert [path.name for path in site.gathered.iterdir()] == ["good.example.json.gz"]
    assert site.left() == []


def test_a_newer_snapshot_replaces_the_old(site: Site) -> None:
    site.add("one.example", PROGRAMS / "ptshare", "--no-physical")
    times = []
    for _ in range(2):
        result = site.gather()
        assert result.returncode == 0, result.stdout + result.stderr
        times.append(snapshot.read(str(site.gathered / "one.example.json.gz")).host.time)
    assert times[0] < times[1]


def test_a_directory_must_be_a_whole_path(site: Site) -> None:
    site.add("one.example", PROGRAMS / "ptshare")
    result = site.gather("snapshots")
    assert result.returncode == 2
    assert "give a whole path" in result.stdout
    assert not (PLAYBOOK.parent / "snapshots").exists()
