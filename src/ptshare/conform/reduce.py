# SPDX-License-Identifier: MIT
"""Makes a program that diverges short: steps are left out as long as it diverges in the same way.

Not by hypothesis, which runs a program some hundred times to that end, where this takes some dozen: what is
slow is the kernel.
"""

from ptshare.conform.calls import Program
from ptshare.conform.compare import first_difference
from ptshare.conform.expected import Model, ProgramError
from ptshare.conform.link import KernelReportError, Runs
from ptshare.conform.machine import Divergence

__all__ = ["diverges", "reduced"]


def diverges(kernel: Runs, program: Program) -> Divergence | None:
    """Run a program on model and kernel; the divergence, with the program as far as it went.

    :raises ProgramError: somebody is called on who is not there
    """
    model = Model(program.files)
    expectations = [model.step(step) for step in program.steps]
    difference = first_difference(program, expectations, kernel.run(program))
    if difference is None:
        return None
    return Divergence(program._replace(steps=program.steps[: difference.step + 1]), difference)


def reduced(kernel: Runs, divergence: Divergence) -> Divergence:
    """The same divergence by a program of which no step can be left out."""
    size = max(1, len(divergence.program.steps) // 4)
    while True:
        try:
            shorter = _without(kernel, divergence, size)
        except KernelReportError:
            # That is worse than what was looked for, but nothing more can be run.
            return divergence
        if shorter is None and size == 1:
            return divergence
        divergence = shorter or divergence
        size = max(1, size // 2)


def _without(kernel: Runs, divergence: Divergence, size: int) -> Divergence | None:
    """Leave out so many steps at a time, wherever that can be done; ``None``: nowhere."""
    at, found = 0, None
    while at < len(divergence.program.steps) - 1:
        steps = divergence.program.steps
        program = divergence.program._replace(steps=(*steps[:at], *steps[min(at + size, len(steps) - 1) :]))
        try:
            shorter = diverges(kernel, program)
        except ProgramError:
            shorter = None
        if shorter is not None and shorter.difference.what == divergence.difference.what:
            divergence = found = shorter
        else:
            at += size
    return found
