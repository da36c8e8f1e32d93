# SPDX-License-Identifier: MIT
"""Metrics that node_exporter takes: one label set comes once, whatever processes and files are called."""

import re
from collections import Counter

import pytest

from ptshare.audit.model import Audit, Host, MappedObject, Process
from ptshare.audit.prometheus import LABELS, metrics

MIB = 1 << 20


def audit(commands: list[str], objects: list[str]) -> Audit:
    """Processes and objects of these names; the first have most tables."""
    host = Host("host", "6.12", 1.0, 0.1, 4096, 2 * MIB, 1 << 34, 1 << 30, None, 0, None, False, "maps")
    return Audit(
        host,
        [Process(pid, name, "root", 1000 - pid) for pid, name in enumerate(commands)],
        [
            MappedObject("0:1", inode, name, "memfd", size=4 * MIB, mappers=2, tables=2000 - inode, needed=1)
            for inode, name in enumerate(objects, 1)
        ],
        [],
    )


def series(text: str, metric: str) -> dict[str, float]:
    """Values by label set, each of which comes once in the text."""
    found = re.findall(rf"^{metric}(\{{.*\}})? (\S+)$", text, re.MULTILINE)
    assert max(Counter(labels for labels, _ in found).values()) == 1
    return {labels: float(value) for labels, value in found}


def test_commands_that_print_alike_are_one() -> None:
    text = metrics(audit(["a\x1b", "a\\x1b", "b"], []))
    assert series(text, "ptshare_command_page_tables_bytes") == {
        '{command="a\\\\x1b"}': 1999,
        '{command="b"}': 998,
    }


@pytest.mark.parametrize("names", [LABELS - 2, LABELS - 1, LABELS, 100])
def test_a_process_without_a_name_counts_with_the_others(names: int) -> None:
    commands = ["", *(f"c{index}" for index in range(names))]
    found = series(metrics(audit(commands, [])), "ptshare_command_page_tables_bytes")
    assert len(found) <= LABELS
    assert sum(found.values()) == sum(1000 - pid for pid in range(len(commands)))
    assert found['{command=""}'] == 1000 + sum(1000 - pid for pid in range(LABELS, len(commands)))


def test_objects_that_print_alike_are_one() -> None:
    text = metrics(audit([], ["/memfd:a\n", "/memfd:a\\n", "/memfd:" + "x" * 300, "/memfd:" + "x" * 301]))
    found = series(text, "ptshare_object_page_tables_bytes")
    assert sorted(found.values()) == [(1997 + 1996) * 4096, (1999 + 1998) * 4096]


def test_all_objects_but_few_are_one() -> None:
    found = series(
        metrics(audit([], [f"/memfd:{index}" for index in range(100)])), "ptshare_object_page_tables_bytes"
    )
    assert len(found) == LABELS
    assert found['{kind="other",object=""}'] == sum(2000 - inode for inode in range(LABELS, 101)) * 4096
