# SPDX-License-Identifier: MIT
"""The programs, and what the kernel holds for sharing."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from held import settles, sharing
from ptshare.lab import LabError
from ptshare.lab import programs as lab_programs

HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """On the host, before a guest starts: get the programs. Tests that miss them fail."""
    if os.environ.get("PTSHARE_LAB") or session.config.option.collectonly:
        return
    if not any(HERE in item.path.parents for item in session.items):
        return
    terminal: Any = session.config.pluginmanager.getplugin("terminalreporter")

    def say(text: str) -> None:
        if terminal is not None:
            terminal.write_line(text)

    try:
        lab_programs.fetch(say)
    except LabError as error:
        say(f"no programs for the integration tests: {error}")


@pytest.fixture(scope="session")
def programs() -> None:
    """PostgreSQL and Redis stand in the guest's /usr."""
    lab_programs.prepare()


@pytest.fixture(autouse=True)
def idle() -> Iterator[None]:
    """What the kernel holds for sharing is after each test what it was before."""
    before = sharing()
    yield
    assert settles(sharing, before), f"{before} before, {sharing()} after"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory on tmpfs that the servers' user comes to, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="program-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
