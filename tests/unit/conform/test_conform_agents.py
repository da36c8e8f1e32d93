# SPDX-License-Identifier: MIT
"""The processes that do what they are told, on this machine's kernel."""

import mmap
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptshare.conform import agents
from ptshare.conform.agents import Agent, AgentError, Agents, compiled

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the agent is for x86-64")

ADDRESS, PAGE = 1 << 40, 4096
MMAP, MPROTECT, GETPID = 9, 10, 39
FIXED_ANONYMOUS = 0x10 | mmap.MAP_SHARED | mmap.MAP_ANONYMOUS


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("agent"))


@pytest.fixture
def places(program: Path) -> Iterator[Agents]:
    found = Agents(program, 2)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def agent(places: Agents) -> Agent:
    return places.begin(0)


def test_a_system_call(agent: Agent) -> None:
    assert agent.syscall(GETPID).value == agent.pid
    refused = agent.syscall(MMAP, ADDRESS + 1, PAGE, 3, FIXED_ANONYMOUS, -1, 0)
    assert (refused.value, refused.errno) == (-1, 22)


def test_accesses_and_what_they_cost(agent: Agent) -> None:
    assert agent.load(ADDRESS).signal == "SIGSEGV"
    assert agent.syscall(MMAP, ADDRESS, 2 * PAGE, 3, FIXED_ANONYMOUS, -1, 0).value == ADDRESS
    assert agent.store(ADDRESS, 0x90) == agents.Reply(0, 0, "", 1)
    assert agent.store(ADDRESS, 0x91) == agents.Reply(0, 0, "", 0)
    assert agent.load(ADDRESS) == agents.Reply(0x91, 0, "", 0)
    assert agent.load(ADDRESS + PAGE) == agents.Reply(0, 0, "", 1)
    assert agent.syscall(MPROTECT, ADDRESS, PAGE, 1).errno == 0
    assert agent.store(ADDRESS, 1).signal == "SIGSEGV"
    assert agent.load(ADDRESS).value == 0x91


@pytest.mark.parametrize("value", [0, 0x90, 0xC3, 0xF8, 0xF9, 0xFC])
def test_one_instruction(agent: Agent, value: int) -> None:
    agent.syscall(MMAP, ADDRESS, PAGE, 3, FIXED_ANONYMOUS, -1, 0)
    agent.store(ADDRESS, value)
    assert agent.fetch(ADDRESS).signal == "SIGSEGV"
    assert agent.syscall(MPROTECT, ADDRESS, PAGE, 5).errno == 0
    for _ in range(3):
        assert agent.fetch(ADDRESS) == agents.Reply(0, 0, "", 0)
    assert agent.load(ADDRESS).value == value


def test_beyond_the_end_of_a_file(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    opened = agent.syscall(257, -100, agent.data, os.O_RDWR, 0, data=os.fsencode(path) + b"\0")
    assert opened.errno == 0
    agent.syscall(MMAP, ADDRESS, 2 * PAGE, 3, 0x10 | mmap.MAP_SHARED, opened.value, 0)
    assert agent.load(ADDRESS).signal == ""
    assert agent.load(ADDRESS + PAGE).signal == "SIGBUS"
    assert agent.fetch(ADDRESS + PAGE).signal == "SIGBUS"


def test_processes_come_and_go(places: Agents) -> None:
    parent, child = places.begin(0), places.places[1]
    parent.syscall(MMAP, ADDRESS, PAGE, 3, FIXED_ANONYMOUS, -1, 0)
    parent.store(ADDRESS, 5)
    parent.fork(child)
    assert child.pid != parent.pid
    assert child.load(ADDRESS).value == 5
    assert child.stay_awake(2).errno == 0
    pid = child.pid
    assert child.exec().errno == 0
    assert child.pid == pid
    assert child.load(ADDRESS).signal == "SIGSEGV"
    assert parent.load(ADDRESS).value == 5
    child.end(kill=False)
    assert not child.alive
    assert not Path(f"/proc/{pid}").exists()
    parent.fork(child)
    child.end(kill=True)
    with pytest.raises(AgentError, match="no process"):
        child.load(ADDRESS)
    assert places.begin(1).load(ADDRESS).signal == "SIGSEGV"


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AgentError, match="no C compiler"):
        compiled(tmp_path / "new")


def test_after_a_fork_an_access_costs_both_what_it_did(places: Agents) -> None:
    """A signal handler is run for each instruction, on the stack that both have."""
    parent, child = places.begin(0), places.places[1]
    parent.syscall(MMAP, ADDRESS, PAGE, 7, FIXED_ANONYMOUS, -1, 0)
    parent.fetch(ADDRESS)
    for _ in range(2):
        parent.fork(child)
        assert parent.fetch(ADDRESS).faults == 0
        assert child.fetch(ADDRESS).faults <= 1
        assert child.fetch(ADDRESS).faults == 0
        child.end(kill=True)
