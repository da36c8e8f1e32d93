# SPDX-License-Identifier: MIT
"""Redis shares memory only with the child that saves: ``ptshare run`` gains it nothing, harms nothing."""

import time
from pathlib import Path

import pytest

from held import sharing
from ptshare import counters
from ptshare.lab.programs import RUN
from ptshare.lab.programs.redis import Server

pytestmark = [pytest.mark.usefixtures("programs"), pytest.mark.guest_timeout(600)]

FRONT = (*RUN, "--")
FIXED = 2000


def value(number: int) -> str:
    return f"{number:08}" * 40


@pytest.fixture
def directory(place: Path, request: pytest.FixtureRequest) -> Path:
    path: Path = place / request.node.name
    path.mkdir()
    return path


def test_background_save_under_load(directory: Path) -> None:
    """What is loaded from the dump is what was there, in both ways to make one; nothing is ever shared."""
    before = sharing()
    with Server(directory, *FRONT) as server:
        with server.client() as client:
            client.mset({f"fixed:{number}": value(number) for number in range(FIXED)})
        load = server.benchmark("-t", "set", "-r", "50000", "-d", "200", "-n", "10000000", "-c", "20")
        try:
            with server.client() as client:
                while client.dbsize() == FIXED:  # until the load has begun
                    time.sleep(0.05)
            server.background_save()
            assert load.poll() is None  # it went on while the dump was written
        finally:
            load.kill()
            load.communicate()
        assert int(server.info("rdb_saves")) >= 1
        assert int(server.info("rdb_last_cow_size")) > 0  # the load wrote while the dump was made
        assert counters.process_tables(server.pid).shared_kib == 0
        assert sharing() == before
        # By SIGKILL: all that the next one has is that dump.
    with Server(directory, *FRONT) as server:
        with server.client() as client:
            found = client.mget([f"fixed:{number}" for number in range(FIXED)])
            assert found == [value(number) for number in range(FIXED)]
            size = client.dbsize()
        assert isinstance(size, int)
        assert size > FIXED
        digest = server.digest()
        server.shut_down()
    with Server(directory) as server:  # without
        assert server.digest() == digest
    assert sharing() == before
