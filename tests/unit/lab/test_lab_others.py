# SPDX-License-Identifier: MIT
"""Other people's tests: what their output is taken for, and when two kernels agree."""

import sys
import time
from pathlib import Path

import pytest

from lab_fixtures import FakePath
from ptshare.lab.errors import LabError
from ptshare.lab.others import compare, suites
from ptshare.lab.others.outcomes import compared, selftest_outcomes, stress_outcomes, table

#: As run_vmtests.sh prints, shortened.
SELFTESTS = """\
== part mremap
TAP version 13
# -----------------------
# running ./mremap_test
# -----------------------
# # Test configs:
# ok 1 5KB mremap - Source 1KB aligned, Destination 4KB aligned
# not ok 2 mremap mremap move within range
# # Totals: pass:1 fail:1
# [FAIL]
not ok 1 mremap_test # exit=1
# running ./mremap_dontunmap
# ok 1 mremap_dontunmap_simple
# # ok 2 behind one more # SKIP no shmem
# # not ok 3 behind one more
# [PASS]
ok 2 mremap_dontunmap
1..2

== done mremap 1
== part userfaultfd
# running ./uffd-unit-tests
# Testing UFFDIO_API (with syscall)... done
# Testing zeropage on hugetlb... skipped [reason: feature missing]
# Testing move on anon... failed [reason: uffd-move]
# [FAIL]
not ok 1 uffd-unit-tests # exit=1
== done userfaultfd 1
== part hmm
# running bash ./test_hmm.sh smoke
# [SKIP]
ok 1 test_hmm.sh smoke # SKIP
== done hmm 0
== part cow
# running ./cow
# ok 1 vmsplice() of 0x7f12 with 1048576 kB
# ok 2 transact_test Extra pages 40 (0.2%), extra thread faults 7.
== done cow timeout
"""


def test_the_kernels_selftests() -> None:
    assert selftest_outcomes(SELFTESTS.splitlines(keepends=True)) == {
        ("mremap", "mremap_test: 5KB mremap - Source 1KB aligned, Destination 4KB aligned"): "pass",
        ("mremap", "mremap_test: mremap mremap move within range"): "fail",
        ("mremap", "mremap_test"): "fail",
        ("mremap", "mremap_dontunmap: mremap_dontunmap_simple"): "pass",
        ("mremap", "mremap_dontunmap: behind one more"): "skip",
        ("mremap", "mremap_dontunmap: behind one more (2)"): "fail",
        ("mremap", "mremap_dontunmap"): "pass",
        ("userfaultfd", "uffd-unit-tests: UFFDIO_API (with syscall)"): "pass",
        ("userfaultfd", "uffd-unit-tests: zeropage on hugetlb"): "skip",
        ("userfaultfd", "uffd-unit-tests: move on anon"): "fail",
        ("userfaultfd", "uffd-unit-tests"): "fail",
        ("hmm", "test_hmm.sh smoke"): "skip",
        ("cow", "cow: vmsplice() of N with N kB"): "pass",
        ("cow", "cow: transact_test Extra pages N (N%), extra thread faults N."): "pass",
        ("cow", "cow"): "timeout",
    }


def test_stressors() -> None:
    lines = [
        "stress-ng: info\n",
        *(f"== done {name}\n" for name in ("mmap 0", "vm 2", "swap 4", "shm timeout")),
    ]
    assert stress_outcomes(lines) == {
        ("vm", "mmap"): "pass",
        ("vm", "vm"): "fail (2)",
        ("vm", "swap"): "skip",
        ("vm", "shm"): "timeout",
    }


def test_what_agrees() -> None:
    """A test that is not steady agrees if both kernels gave the same at least once."""
    theirs = [{("p", "a"): "pass", ("p", "b"): "pass", ("p", "c"): "fail"}, {("p", "b"): "fail"}]
    ours = [{("p", "a"): "pass", ("p", "b"): "fail", ("p", "d"): "pass"}]
    rows = {row.test: row for row in compared(theirs, ours)}
    assert [(row.agrees, row.steady) for row in rows.values()] == [
        (True, True),
        (True, False),
        (False, False),
        (False, False),
    ]
    assert rows["c"].ours == rows["d"].theirs == ("missing",)
    assert table(list(rows.values()), {"theirs": "plain", "ours": "patched"}) == (
        "| | plain | patched | differ |\n"
        "|---|---|---|---|\n"
        "| p | 1 pass, 2 fail, 1 missing | 2 pass, 1 fail, 1 missing | 2 |\n"
        "\n"
        "| test that is not steady | plain | patched |\n"
        "|---|---|---|\n"
        "| p: `b` | pass, fail | fail |\n"
        "| p: `c` **differs** | fail | missing |\n"
        "| p: `d` **differs** | missing | pass |\n"
    )


def test_a_part_that_hangs_is_ended_with_its_children(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alive = tmp_path / "alive"
    status = suites._run(["sh", "-c", f"sleep 60 & echo $! > {alive}; echo out; wait"], str(tmp_path), 1)
    assert status == "timeout"
    assert capfd.readouterr().out == "out\n"
    # It has been killed; when it dies, the scheduler says.
    deadline = time.monotonic() + 30
    while _runs(int(alive.read_text())):
        assert time.monotonic() < deadline, "the part's child lives on"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_parts_are_found_in_the_suite(tmp_path: Path, fake_path: FakePath) -> None:
    (tmp_path / "run_vmtests.sh").write_text('CATEGORY="mmap" run_test ./a\n\tCATEGORY="cow" run_test ./b\n')
    assert suites._selftest_parts(str(tmp_path)) == ["mmap", "cow"]
    fake_path.add("stress-ng", "echo \"class 'vm' stressors: brk mmap\"; exit 1")
    assert suites._stressors() == ["brk", "mmap"]


@pytest.mark.usefixtures("fake_path")
def test_libraries_of_the_selftests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_HEADERS", {sys.executable: "python3", "/nowhere.h": "libnowhere-dev"})
    with pytest.raises(LabError, match=r"install with: apt-get install libnowhere-dev$"):
        compare._build_selftests(lambda _: None)
