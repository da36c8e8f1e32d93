# SPDX-License-Identifier: MIT
"""A divergence as a Python script that stands alone: ``standalone.py``, and a line for each step."""

from pathlib import Path

from ptshare.conform.calls import FIRST, PROCESSES, Flag, Step, name
from ptshare.conform.compare import Difference
from ptshare.conform.expected import Expectation, Model
from ptshare.conform.machine import Divergence
from ptshare.spec.state import Outcome

__all__ = ["script"]

_PRELUDE = Path(__file__).with_name("standalone.py")
#: Where among a call's arguments its file is.
_FILE = {"mmap": 3, "mmap_anywhere": 1, "truncate": 0, "punch": 0, "fsync": 0, "seal": 0}
#: Calls of which the script sees what they return; of others, whether they are refused.
_RETURN = {"mmap", "mremap", "mmap_anywhere", "load", "vm_read"}
_FLAGS = {Flag.SHARED_PT: "SHARED_PT", Flag.LOCKED: "LOCKED", Flag.NOREPLACE: "NOREPLACE"}


def script(divergence: Divergence) -> str:
    """The program, with what the contract says to each step and what differed."""
    program = divergence.program
    model = Model(program.files)
    expectations = [model.step(step) for step in program.steps]
    names = ", ".join(name(place) for place in range(PROCESSES))
    lines = ["", "# What the kernel did when this was written:", f"# {divergence.difference}"]
    lines += [
        f"{_file(number)} = file({kind!r}, {size})" for number, (kind, size) in enumerate(program.files)
    ]
    lines += [f"{names} = everyone", f"start({FIRST})"]
    for step, expectation in zip(program.steps, expectations, strict=True):
        call = _call(step)
        lines.append(f"step({call!r}, {call}, {_expected(step, expectation.answer)})")
    lines += [*_last(divergence.difference, expectations, program.steps[-1]), "end()", ""]
    return _PRELUDE.read_text() + "\n".join(lines)


def _file(number: int) -> str:
    return f"file{number}"


def _call(step: Step) -> str:
    args = [step.readable(at) for at in range(len(step.args))]
    if step.call in _FILE:
        at = _FILE[step.call]
        args[at] = _file(step.number(at))
    if step.call == "mmap":
        args[-1] = " | ".join(word for bit, word in _FLAGS.items() if step.number(-1) & bit) or "0"
    who = f"{name(step.process)}." if step.process >= 0 else ""
    return f"{who}{step.call}({', '.join(args)})"


def _expected(step: Step, answer: Outcome) -> str:
    if answer.signal:
        return "-errno.EFAULT"
    if answer.errno:
        return f"-{answer.errno}"
    return hex(answer.value) if step.call in _RETURN else "0"


def _last(difference: Difference, expectations: list[Expectation], step: Step) -> list[str]:
    """What is not in what the last call returned."""
    what, _, who = difference.what.partition(" of ")
    if difference.what == "PageTables, pages":
        return [
            "# PageTables of /proc/meminfo is not VmPTE of all processes and the domains' tables:",
            """subprocess.run("grep -hE 'VmPTE|PageTables' /proc/meminfo /proc/[0-9]*/status", shell=True)""",
        ]
    if difference.step == len(expectations):
        lines = [f"for process in everyone[:{PROCESSES}]:", "    process.pid and process.kill()"]
        return [*lines, *(f'step("{what}", sysfs("{what}"), 0)' for what in ("domains", "guests", "tables"))]
    if what == "faults" and step.call in ("load", "store"):
        who, most = name(step.process), expectations[-1].answer.faults
        return [f'step("faults of {who}, beyond {most}", max(0, {who}.faults() - {most}), 0)']
    if difference.what == "domains":
        return [f'step("domains", sysfs("domains"), {difference.expected})']
    if what == "maps":
        return [f'step("maps of {who}", [line[:4] for line in {who}.maps()], {_without_file(difference)})']
    if difference.what.startswith("pages present in "):
        who = difference.what[-1]
        return [f'step("pages present in {who}", {who}.present(), {difference.expected})']
    if what == "VmSharedPT":
        return [f'step("VmSharedPT of {who}", {who}.status("VmSharedPT"), {difference.expected})']
    return []


def _without_file(difference: Difference) -> list[list[int]]:
    assert isinstance(difference.expected, list)
    return [line[:4] for line in difference.expected]
