# SPDX-License-Identifier: MIT
"""The memory that all processes of a run have mapped."""

import os
from collections.abc import Iterator

import pytest

from ptshare.stress.control import BEGUN, DONE, LOG, Control


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = os.memfd_create("test-control")
    yield descriptor
    os.close(descriptor)


def make(fd: int) -> Control:
    return Control(fd, processes=3, pages=[10, 20], kinds=4, rights=5)


def test_another_process_sees_it(fd: int) -> None:
    control = make(fd)
    pid = os.fork()
    if pid == 0:
        other = make(fd)
        other.current[1][19] = 77
        other.announced[0][9] = 78
        other.rights[4] = 79
        other.counts(2)[3] += 5
        other.fail(1, "wrong: ü")
        os._exit(0)
    os.waitpid(pid, 0)
    assert (control.current[1][19], control.announced[0][9], control.rights[4]) == (77, 78, 79)
    assert list(control.counts(2)) == [0, 0, 0, 5]
    assert control.failed
    assert control.failure(1) == "wrong: ü"
    assert control.failure(0) == ""
    assert not control.stop
    control.finish()
    assert make(fd).stop


def test_no_two_parts_overlap(fd: int) -> None:
    control = make(fd)
    parts = [
        control.flags,
        control.pids,
        control.lives,
        control.verified,
        *control.current,
        *control.announced,
        control.rights,
        control.announced_rights,
        *(control.counts(n) for n in range(3)),
    ]
    for number, part in enumerate(parts):
        for at in range(len(part)):
            part[at] = number + 1
    for process in range(3):
        control.begin(process, 1, 2)
        control.fail(process, "x" * 10000)
    for number, part in enumerate(parts[1:], 1):
        assert set(part) == {number + 1}


def test_the_log_keeps_the_last_operations_in_order(fd: int) -> None:
    control = make(fd)
    for number in range(LOG + 7):
        at = control.begin(1, number, kind=number % 4)
        control.note(at, 1, 2, number * 10, 0x7F00_0000_0000, 1 << 60)
        if number != LOG + 6:
            control.end(at, DONE)
    log = control.log(1)
    assert [entry.number for entry in log] == list(range(7, LOG + 7))
    last = log[-1]
    assert (last.kind, last.outcome, last.file, last.access) == ((LOG + 6) % 4, BEGUN, 1, 2)
    assert (last.page, last.address, last.more) == ((LOG + 6) * 10, 0x7F00_0000_0000, 1 << 60)
    assert log[0].outcome == DONE
    assert control.log(0) == []
