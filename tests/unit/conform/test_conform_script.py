# SPDX-License-Identifier: MIT
"""What a divergence looks like as a script. Guests run some: tests/conformance."""

import pytest

from ptshare.conform.calls import ADDRESS, Flag, Program, Step
from ptshare.conform.compare import Difference
from ptshare.conform.machine import Divergence
from ptshare.conform.script import script
from ptshare.syscalls import GIB, GRANULE, PAGE

PROGRAM = Program(
    (("memfd", 4 * GRANULE), ("ext4", 2 * GIB + 100)),
    (
        Step(0, "mmap", (ADDRESS + GIB, 2 * GIB, 3, 1, "rw", GRANULE, Flag.SHARED_PT | Flag.LOCKED)),
        Step(0, "mmap", (ADDRESS + PAGE, GRANULE, 1, 0, "r", 0, Flag.SHARED_PT)),
        Step(-1, "truncate", (1, 3 * GRANULE + PAGE)),
        Step(1, "load", (ADDRESS,)),
        Step(2, "stay_awake", (1,)),
    ),
)


def lines(difference: Difference, program: Program = PROGRAM) -> list[str]:
    """The part of the script that is not the same in all."""
    text = script(Divergence(program, difference))
    compile(text, "script.py", "exec")
    return text[text.index("# What the kernel did") :].splitlines()


def test_a_step_is_a_line() -> None:
    assert lines(Difference(3, "signal", "SIGSEGV", "")) == [
        "# What the kernel did when this was written:",
        "# signal: expected 'SIGSEGV', found ''",
        "file0 = file('memfd', 8388608)",
        "file1 = file('ext4', 2147483748)",
        "A, B, C, D, E = everyone",
        "start(3)",
        "step(\"A.mmap(BASE + GIB, 2 * GIB, 3, file1, 'rw', GRANULE, SHARED_PT | LOCKED)\", "
        "A.mmap(BASE + GIB, 2 * GIB, 3, file1, 'rw', GRANULE, SHARED_PT | LOCKED), 0x10040000000)",
        "step(\"A.mmap(BASE + PAGE, GRANULE, 1, file0, 'r', 0, SHARED_PT)\", "
        "A.mmap(BASE + PAGE, GRANULE, 1, file0, 'r', 0, SHARED_PT), -22)",
        "step('truncate(file1, 3 * GRANULE + PAGE)', truncate(file1, 3 * GRANULE + PAGE), 0)",
        "step('B.load(BASE)', B.load(BASE), -errno.EFAULT)",
        "step('C.stay_awake(1)', C.stay_awake(1), 0)",
        "end()",
    ]


@pytest.mark.parametrize(
    ("difference", "last"),
    [
        (Difference(4, "domains", 1, 2), ['step("domains", sysfs("domains"), 1)']),
        (
            Difference(4, "maps of A", [[1, 2, 3, 4, 0]], []),
            ['step("maps of A", [line[:4] for line in A.maps()], [[1, 2, 3, 4]])'],
        ),
        (
            Difference(4, "pages present in B", [[1, 2]], []),
            ['step("pages present in B", B.present(), [[1, 2]])'],
        ),
        (
            Difference(4, "VmSharedPT of A", 4096, 0),
            ['step("VmSharedPT of A", A.status("VmSharedPT"), 4096)'],
        ),
        (Difference(4, "faults", "at most 1", 2), []),
        (
            Difference(5, "domains, guests and tables after the end of all", [0, 0, 0], [1, 0, 3]),
            [
                "for process in everyone[:5]:",
                "    process.pid and process.kill()",
                'step("domains", sysfs("domains"), 0)',
                'step("guests", sysfs("guests"), 0)',
                'step("tables", sysfs("tables"), 0)',
            ],
        ),
    ],
)
def test_what_is_looked_at_in_the_end(difference: Difference, last: list[str]) -> None:
    found = lines(difference)
    at = next(number for number, line in enumerate(found) if "C.stay_awake" in line)
    assert found[at + 1 :] == [*last, "end()"]


def test_faults_of_an_access() -> None:
    found = lines(Difference(3, "faults", "at most 0", 1), PROGRAM._replace(steps=PROGRAM.steps[:4]))
    assert found[-2:] == ['step("faults of B, beyond 1", max(0, B.faults() - 1), 0)', "end()"]


def test_page_tables_of_the_machine() -> None:
    assert "PageTables" in lines(Difference(5, "PageTables, pages", 3, 4))[-2]


def test_a_report_of_the_kernel() -> None:
    assert lines(Difference(5, "kernel", "no report", "BUG: something"))[1] == (
        "# kernel: expected 'no report', found 'BUG: something'"
    )
