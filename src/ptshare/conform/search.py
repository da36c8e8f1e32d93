# SPDX-License-Identifier: MIT
"""The search for a program in which the kernel does something else than the model."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from ptshare.conform.compare import Difference
from ptshare.conform.link import KernelReportError, Runs
from ptshare.conform.machine import Divergence, Machine
from ptshare.conform.reduce import reduced

__all__ = ["Found", "search"]

#: Steps of a program, and programs of one seed.
STEPS, PROGRAMS = 40, 20

_SETTINGS = settings(
    max_examples=PROGRAMS,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    verbosity=Verbosity.quiet,
    print_blob=False,
    report_multiple_bugs=False,
)


@dataclass(frozen=True)
class Found:
    """What came of a search.

    :param divergence: the shortest program that was found, ``None``: the kernel does as the model says
    :param last_seed: the seed that was tried last; with a divergence, the one that leads to it
    :param steps: that the kernel has run
    :param seconds: that it took
    """

    divergence: Divergence | None
    last_seed: int
    steps: int
    seconds: float


def search(
    kernel: Runs,
    first_seed: int,
    seconds: float,
    said: Callable[[str], object] = lambda text: None,
    shrink: bool = True,
) -> Found:
    """Try programs until the time is up, or one diverges: that one is then made as short as can be, which
    takes time of its own.

    :param first_seed: of the random numbers; the ones after it follow
    :param said: called with a line now and then
    :param shrink: make a program that diverges short
    """
    began = time.monotonic()

    class Mine(Machine):
        pass

    Mine.kernel = kernel
    number = first_seed
    while True:
        try:
            run_state_machine_as_test(seed(number)(Mine), settings=_SETTINGS)
        except Divergence as divergence:
            spent = time.monotonic() - began
            return Found(reduced(kernel, divergence) if shrink else divergence, number, Mine.steps, spent)
        except KernelReportError as error:
            if error.program is None:
                raise
            difference = Difference(len(error.program.steps), "kernel", "no report", str(error))
            reported = Divergence(error.program, difference)
            return Found(reported, number, Mine.steps, time.monotonic() - began)
        spent = time.monotonic() - began
        said(f"seed {number}: no divergence; {Mine.steps} steps in {spent:.0f} s")
        if spent >= seconds:
            return Found(None, number, Mine.steps, spent)
        number += 1
