# SPDX-License-Identifier: MIT
"""The bars that shared page tables have to reach, in a guest whose clock counts instructions.

One boot, and the short form of every question: two to three minutes on two busy processors.
"""

import pytest

from ptshare.bench.bars import BINDING, Bar, bars
from ptshare.bench.results import Results
from ptshare.bench.runs import QUESTIONS, runs
from ptshare.bench.session import measure
from ptshare.lab import build_image
from ptshare.lab.terminal import ProgressLine

CPUS = 2

#: What ordinary mappings cost is compared with Debian's kernel, which CI does not build: ./test parity.
ASKED = [question for question in QUESTIONS if question != "calls"]


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> Results:
    image = build_image(str(request.config.getoption("--guest-config")), ProgressLine())
    asked = [run for question in ASKED for run in runs(question, short=True, cpus=CPUS)]
    results = measure(asked, image, cpus=CPUS, memory="4G", icount=True, say=print, timeout=600)
    print(results.as_json())  # seen if a bar is missed
    return results


def of(found: Results, question: str) -> list[Bar]:
    return [bar for bar in bars(found) if bar.question == question and bar.method == BINDING]


@pytest.mark.parametrize("question", [name for name in ASKED if name != "fork"])
def test_bars(found: Results, question: str) -> None:
    reckoned = of(found, question)
    assert reckoned
    assert [bar for bar in reckoned if not bar.reached] == []


def test_fork(found: Results) -> None:
    """No bar: a child has the links that there are, and takes no fault for a GiB."""
    (shared,) = found.of("fork", method=BINDING)
    (ordinary,) = found.of("fork", method="ordinary")
    assert shared.figures["child_faults"] == 0
    assert ordinary.figures["child_faults"] >= 4096


def test_the_clock_counts_instructions(found: Results) -> None:
    """Touching a page is five of them, and nothing else."""
    (threads,) = found.of("warm", method="threads")
    pages = threads.run.touched // 4096
    assert threads.figures["again_ns"] / pages == pytest.approx(5, rel=0.01)
