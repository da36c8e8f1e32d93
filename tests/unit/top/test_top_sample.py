# SPDX-License-Identifier: MIT
"""Faults of processes and of the host, as /proc tells them."""

import mmap
import os
from pathlib import Path

import pytest
import top_samples
from hypothesis import given
from hypothesis import strategies as st

from ptshare.audit.collect import Scope
from ptshare.audit.model import Process
from ptshare.top import sample
from ptshare.top.sample import Faults, parse_stat, parse_vmstat, take

#: /proc/PID/stat of Debian's 6.1; the name is one that a process may give itself.
STAT = (
    b"4711 (a) R 1 (b)) S 4700 4711 4711 0 -1 4194560 2034 99 17 3 5 6 0 0 20 0 1 0 8472 222191616 "
    b"7266 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)


def test_stat() -> None:
    assert parse_stat(STAT) == (8472, Faults(2034, 17))


@pytest.mark.parametrize(
    "data", [b"", b"4711 (sh)", STAT[:60], b"\0" * 100, STAT.replace(b" 17 ", b" x ", 1)]
)
def test_what_is_no_stat(data: bytes) -> None:
    assert parse_stat(data) is None


def test_vmstat() -> None:
    data = b"nr_free_pages 12\npgfault 1000\npgmajfault 30\npgmigrate_success 1\n"
    assert parse_vmstat(data) == Faults(970, 30)
    assert parse_vmstat(b"pgfault 1000\n") is None
    assert parse_vmstat(b"pgfault x\npgmajfault y\n") is None
    assert parse_vmstat(b"pgfault\npgmajfault") is None
    assert parse_vmstat(b"") is None


@given(st.binary(max_size=200))
def test_anything(data: bytes) -> None:
    parse_stat(data)
    parse_vmstat(data)


def test_this_process() -> None:
    before = take(Scope(pids=(os.getpid(),)))
    pages = 2000
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as mapping:
        # No fault that maps several pages at once.
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(pages):
            mapping[page * mmap.PAGESIZE] = 1
        after = take(Scope(pids=(os.getpid(),)))
    old, new = before.stats[os.getpid()], after.stats[os.getpid()]
    assert new.faults.minor - old.faults.minor >= pages
    assert new.started == old.started
    assert new.line.split()[0] == Path("/proc/self/cmdline").read_text().split("\0")[0]
    assert before.faults is not None
    assert after.faults is not None
    assert after.faults.minor - before.faults.minor >= pages
    assert after.at > before.at
    assert after.audit.host.counted is None  # which would take long


def test_a_process_that_vanishes_after_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = top_samples.audit(processes=[Process(2**30, "gone", "root", 4096)])
    monkeypatch.setattr(sample, "collect", lambda *_, **__: gone)
    assert take().stats == {}


def test_without_proc(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        take(root=str(tmp_path))
