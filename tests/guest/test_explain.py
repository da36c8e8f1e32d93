# SPDX-License-Identifier: MIT
"""Who links to which table: ``ptshare explain``, and what the kernel's file says.

The file itself, and who may read it when: test_tables_file.py.
"""

import json
import mmap
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import calls
import pytest
from agents import Agents
from calls import GIB, GRANULE, MAP_SHARED, RW, SHARED_PT, R

from ptshare.explain import kernel
from ptshare.explain.picture import PMDS, PTES, Picture

TABLES = Path("/sys/kernel/debug/ptshare/tables")

COMMAND = [sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())", "explain"]


def explain(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, **options)


@pytest.fixture
def pair() -> Iterator[tuple[int, Agents]]:
    """A file of 2 GiB, and two processes."""
    with calls.memfd(2 * GIB) as fd, Agents(2) as agents:
        yield fd, agents


def look(agents: Agents) -> Picture:
    """What the kernel says of the processes, in their order."""
    pids = [agents.pid(0), agents.pid(1)]
    found = kernel.read().of(pids)
    found.processes.sort(key=lambda process: pids.index(process.pid))
    return found


def linked(picture: Picture, member: int) -> dict[int, str]:
    """Address -> where the table is that is linked there."""
    return {entry.start: entry.key for entry in picture.processes[member].links()}


def test_one_table_at_one_address(pair: tuple[int, Agents]) -> None:
    """The entries of both processes hold the address of the host's table, whatever their own addresses."""
    fd, agents = pair
    at = [agents.do(n, "mmap", 4 * GRANULE, RW, SHARED_PT, fd, n * GRANULE) for n in range(2)]
    for n in range(2):
        agents.do(n, "touch", at[n], 4 * GRANULE)
    picture = look(agents)
    (domain,) = picture.domains
    host = {table.start: table for table in domain.tables if table.level == PTES}
    ours, theirs = linked(picture, 0), linked(picture, 1)
    assert sorted(host) == [n * GRANULE for n in range(5)]
    assert ours == {at[0] + n * GRANULE: host[n * GRANULE].key for n in range(4)}
    assert theirs == {at[1] + n * GRANULE: host[(n + 1) * GRANULE].key for n in range(4)}
    assert [host[n * GRANULE].links for n in range(5)] == [1, 2, 2, 2, 1]
    # Five tables, each a page of its own.
    assert len({table.key for table in host.values()}) == 5


def test_a_whole_gib_at_one_address(pair: tuple[int, Agents]) -> None:
    fd, agents = pair
    at = [agents.do(n, "mmap", 2 * GIB, RW, SHARED_PT, fd) for n in range(2)]
    for n in range(2):
        agents.do(n, "peek", at[n] + GIB)
    picture = look(agents)
    (table,) = (one for one in picture.domains[0].tables if one.links)
    assert (table.level, table.start, table.links) == (PMDS, GIB, 2)
    assert [linked(picture, n) for n in range(2)] == [{at[n] + GIB: table.key} for n in range(2)]


def test_another_class_has_tables_elsewhere(pair: tuple[int, Agents]) -> None:
    fd, agents = pair
    for n, prot in enumerate((RW, R)):
        at = agents.do(n, "mmap", GRANULE, prot, SHARED_PT, fd)
        agents.do(n, "peek", at)
    picture = look(agents)
    assert sorted(domain.asked for domain in picture.domains) == ["r--", "rw-"]
    keys = [{table.key for table in domain.tables} for domain in picture.domains]
    assert not keys[0] & keys[1]
    assert not set(linked(picture, 0).values()) & set(linked(picture, 1).values())


def test_a_link_that_was_dropped_is_gone(pair: tuple[int, Agents]) -> None:
    fd, agents = pair
    at = [agents.do(n, "mmap", 2 * GRANULE, RW, SHARED_PT, fd) for n in range(2)]
    for n in range(2):
        agents.do(n, "touch", at[n], 2 * GRANULE)
    before = look(agents)
    agents.do(0, "madvise", at[0], GRANULE, mmap.MADV_DONTNEED)
    after = look(agents)
    assert list(linked(after, 0)) == [at[0] + GRANULE]
    assert linked(after, 1) == linked(before, 1)
    tables = {table.start: table for table in after.domains[0].tables if table.level == PTES}
    assert (tables[0].links, tables[GRANULE].links) == (1, 2)
    # It is the same table after it was dropped, and linked again.
    agents.do(0, "peek", at[0])
    assert linked(look(agents), 0) == linked(before, 0)


def test_an_ordinary_mapping_links_to_nothing(pair: tuple[int, Agents]) -> None:
    fd, agents = pair
    at = agents.do(0, "mmap", GRANULE, RW, MAP_SHARED, fd)
    agents.do(0, "touch", at, GRANULE)
    assert look(agents) == Picture([], [], True)
    assert TABLES.read_text() == ""


SCRIPTS = {
    "overlapping windows": """
        A mmap data 0 8M rw at 1T
        A read 1T 8M
        B mmap data 4M 8M rw at 2T+6M
        B read 2T+6M 8M
        B write 2T+8M
    """,
    "whole GiBs": """
        A mmap data 0 3G rw at 1T
        A read 1T+1G
        A read 1T+2G
        B mmap data 1G 2G rw at 2T
        B read 2T
        B munmap 2T+4M 2M
        B read 2T
        C mmap data 0 3G rw at 3T+2M
        C read 3T+2M+1G
    """,
    "classes": """
        A mmap data 0 4M rw at 1T
        A write 1T
        B mmap data 0 4M r at 1T
        B read 1T
        C mmap data 0 4M r at 1T readonly
        C read 1T
        C write 1T
        C mprotect 1T 4K rw
        D mmap data 0 4M rw at 1T readonly
    """,
    "fork and exit": """
        A mmap data 0 2G rw at 1T
        A read 1T 4M
        B fork A
        C fork B
        C read 1T+2M
        B exit
        A mprotect 1T 4M r
        C write 1T
        C read 1T
    """,
    "dropping and unmapping": """
        A mmap data 0 8M rw at 1T
        A mmap data 0 8M rw at 2T ordinary
        A read 1T 8M
        A read 2T 8M
        B mmap data 0 8M rw at 1T
        B read 1T 8M
        A dontneed 1T 4M
        B munmap 1T+2M 2M
        B munmap 1T 4K
        A dontneed 1T+7M 4K
        C mmap data 1M 2M rw at 1T
        C mmap data 0 2M rw at 1T+1M
        C mmap data 0 2M rw at 1T
    """,
    "beyond the end": """
        A mmap data 3G 2G rw at 1T
        A read 1T+1G
        A read 1T
        B mmap other 0 2M rw at 1T
        B read 1T
    """,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_model_and_the_kernel_agree(name: str) -> None:
    source = "file data 4G\nfile other 2M\n" + SCRIPTS[name]
    result = explain("--script", "-", "--kernel", input=source)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert result.stdout.endswith("The kernel's answer is the model's.\n")
    assert "link" in result.stdout
    value = json.loads(explain("--script", "-", "--json", input=source).stdout)
    assert value["differences"] == []
    assert value["kernel"]["processes"]
    assert TABLES.read_text() == ""


def test_living_processes(pair: tuple[int, Agents], tmp_path: Path) -> None:
    fd, agents = pair
    for n in range(2):
        at = agents.do(n, "mmap", GRANULE, RW, SHARED_PT, fd)
        agents.do(n, "peek", at)
    pids = [agents.pid(n) for n in range(2)]
    drawing = tmp_path / "picture.svg"
    result = explain(*map(str, pids), "--svg", str(drawing))
    assert (result.returncode, result.stderr) == (0, "")
    key = linked(look(agents), 0).popitem()[1]
    assert result.stdout.count(f"@{key}\n") == 3
    assert "host of /memfd:guest-test (deleted) rw- of rwx\n" in result.stdout
    assert all(f"process {pid}\n" in result.stdout for pid in pids)
    root = ElementTree.parse(drawing).getroot()
    assert sum(element.text == key for element in root.iter()) == 3
    assert explain(str(pids[0])).stdout.count(f"@{key}\n") == 2


def test_why_it_cannot_be_had() -> None:
    assert "process 1 is not there, or has no mapping" in explain("1").stderr
    unmounted = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'umount /sys/kernel/debug && exec "$@"', "sh", *COMMAND, "1"],
        capture_output=True,
        text=True,
    )
    assert unmounted.returncode == 2
    assert "mount it: mount -t debugfs none /sys/kernel/debug" in unmounted.stderr
