# SPDX-License-Identifier: MIT
"""The search, the comparison and the reduction, with models that have a mistake in the kernel's place."""

import random
from typing import Any

import pytest

from modelled import Modelled
from ptshare.conform.calls import ADDRESS, Flag, Program, Step
from ptshare.conform.compare import first_difference
from ptshare.conform.expected import Model, ProgramError
from ptshare.conform.reduce import diverges, reduced
from ptshare.conform.search import search
from ptshare.spec.state import Outcome
from ptshare.syscalls import GRANULE, PAGE

FILES = (("memfd", 4 * GRANULE), ("tmpfs", 4 * GRANULE))


def shared(process: int, prot: int = 3, mode: str = "rw") -> Step:
    return Step(process, "mmap", (ADDRESS, 4 * GRANULE, prot, 0, mode, 0, Flag.SHARED_PT))


def test_the_model_is_as_the_model() -> None:
    found = search(Modelled(), random.getrandbits(31), 0)
    assert found.divergence is None
    # Most programs go to their last step.
    assert found.steps > 400


class OneMappingAtATime(Model):
    """mremap is not asked for what may be one mapping or two."""

    def _do_mremap(self, step: Step) -> Outcome:
        start, length = step.number(0), step.number(1)
        first = self._process(step).at(start)
        if first and start + length > first.end and (following := self._process(step).at(first.end)):
            continues = first.file is following.file and first.offset + first.length == following.offset
            assert not continues or first.domain is not following.domain, step
        return super()._do_mremap(step)


def test_where_mappings_are_joined_is_the_kernels_business() -> None:
    """With hypothesis 6.170, programs of this seed had mremap over what mprotect had cut before."""
    assert search(Modelled(OneMappingAtATime), 303, 0).divergence is None


class NoUnlink(Model):
    """MADV_DONTNEED does nothing."""

    def _do_madvise(self, step: Step) -> Outcome:
        return Outcome() if step.text(2) == "DONTNEED" else super()._do_madvise(step)


class StoresLost(Model):
    """Who stores 0x90 has not."""

    def _do_store(self, step: Step) -> Outcome:
        return self._do_load(step)._replace(value=0) if step.number(1) == 0x90 else super()._do_store(step)


class NeverRefused(Model):
    """munmap never fails."""

    def _do_munmap(self, step: Step) -> Outcome:
        return super()._do_munmap(step)._replace(errno=0)


@pytest.mark.parametrize(
    ("model", "what", "steps"),
    [(NoUnlink, {"pages present", "VmSharedPT", "errno"}, 4), (NeverRefused, {"errno"}, 3)],
)
def test_a_mistake_is_found_and_made_short(model: type[Model], what: set[str], steps: int) -> None:
    found = search(Modelled(model), 1, 30)
    assert found.divergence is not None
    assert found.divergence.difference.what.split(" of ")[0].split(" in ")[0] in what
    assert len(found.divergence.program.steps) <= steps
    # And it can be had again.
    again = diverges(Modelled(model), found.divergence.program)
    assert again is not None
    assert again.difference == found.divergence.difference
    assert diverges(Modelled(), found.divergence.program) is None


def test_a_lost_store_needs_four_steps() -> None:
    steps = [
        shared(0),
        shared(1),
        Step(2, "stay_awake", (1,)),
        Step(0, "load", (ADDRESS + PAGE,)),
        Step(0, "store", (ADDRESS, 0x90)),
        Step(-1, "fsync", (0,)),
        Step(1, "load", (ADDRESS,)),
        Step(0, "load", (ADDRESS,)),
    ]
    divergence = diverges(Modelled(StoresLost), Program(FILES, tuple(steps)))
    assert divergence is not None
    assert divergence.program.steps[-1] == steps[6]
    assert reduced(Modelled(StoresLost), divergence).program.steps == (shared(0), shared(1), *steps[4:7:2])


@pytest.mark.parametrize(
    "steps",
    [
        [Step(0, "exit"), Step(0, "load", (ADDRESS,))],
        [Step(4, "load", (ADDRESS,))],
        [Step(0, "fork", (1,))],
    ],
)
def test_calls_on_nobody(steps: list[Step]) -> None:
    with pytest.raises(ProgramError):
        diverges(Modelled(), Program(FILES, tuple(steps)))


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (["answer", 0], 7, "value"),
        (["answer", 1], 22, "errno"),
        (["answer", 2], "SIGBUS", "signal"),
        (["answer", 3], 2, "faults"),
        (["sysfs", 0], 2, "domains"),
        (["sysfs", 1], 0, "guests"),
        (["sysfs", 2], 9, "tables of domains"),
        (["processes", "0", "maps"], [], "maps of A"),
        (["processes", "0", "present"], [], "pages present in A"),
        (["processes", "0", "own"], 0, "VmPTE of A"),
        (["processes", "0", "own"], 9, "VmPTE of A"),
        (["processes", "0", "shared"], 0, "VmSharedPT of A"),
        (["processes"], {"0": {}}, "processes"),
    ],
)
def test_all_that_is_seen_is_compared(path: list[Any], value: object, what: str) -> None:
    program = Program(FILES, (shared(0), Step(0, "load", (ADDRESS,))))
    model = Model(program.files)
    expectations = [model.step(step) for step in program.steps]
    found = Modelled().run(program)
    assert first_difference(program, expectations, found) is None
    at = found["steps"][1]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    difference = first_difference(program, expectations, found)
    assert difference is not None
    assert (difference.step, difference.what) == (1, what)


def test_what_is_left_at_the_end_is_compared() -> None:
    program = Program(FILES, (shared(0),))
    found = Modelled().run(program) | {"left": [1, 0, 3]}
    difference = first_difference(program, [Model(FILES).step(shared(0))], found)
    assert difference is not None
    assert (difference.step, difference.found) == (1, [1, 0, 3])


def test_page_tables_of_the_machine_are_compared() -> None:
    program = Program(FILES, (shared(0),))
    found = Modelled().run(program) | {"page_tables": [2, 3]}
    difference = first_difference(program, [Model(FILES).step(shared(0))], found)
    assert difference is not None
    assert (difference.expected, difference.found) == (3, 2)


def test_pages_that_the_kernel_was_advised_to_take_out_may_be_there_or_not() -> None:
    out = Step(0, "madvise", (ADDRESS, GRANULE, "PAGEOUT"))
    program = Program(FILES, (shared(0), Step(0, "store", (ADDRESS, 1)), out))
    model = Model(program.files)
    expectations = [model.step(step) for step in program.steps]
    for present in ([], [[ADDRESS, ADDRESS + PAGE]]):
        found = Modelled().run(program)
        found["steps"][2]["processes"]["0"]["present"] = present
        assert first_difference(program, expectations, found) is None
    found["steps"][2]["processes"]["0"]["present"] = [[ADDRESS + GRANULE, ADDRESS + GRANULE + PAGE]]
    assert first_difference(program, expectations, found) is not None


def test_what_is_linked_across_what_may_be_joined_may_be_there_or_not() -> None:
    """MADV_DODUMP gives a granule back to the mapping before it, of which a fault may link as far as that."""
    third = ADDRESS + 2 * GRANULE
    steps = (
        shared(0),
        shared(1),
        Step(1, "madvise", (third, 2 * GRANULE, "DONTDUMP")),
        Step(1, "madvise", (third, GRANULE, "DODUMP")),
        Step(0, "load", (third,)),
        Step(1, "load", (ADDRESS,)),
    )
    program = Program(FILES, steps)
    model = Model(program.files)
    expectations = [model.step(step) for step in program.steps]
    first, joined = [ADDRESS, ADDRESS + PAGE], [third, third + PAGE]
    for present, linked in (([first], 1), ([first, joined], 2)):
        found = Modelled().run(program)
        found["steps"][-1]["processes"]["1"] |= {"present": present, "shared": linked * GRANULE}
        assert first_difference(program, expectations, found) is None
    # Not what cannot be joined: another process, or another page.
    for place, present in (("0", [first]), ("1", [first, [ADDRESS + PAGE, ADDRESS + 2 * PAGE], joined])):
        found = Modelled().run(program)
        found["steps"][-1]["processes"][place]["present"] = present
        assert first_difference(program, expectations, found) is not None


def test_what_a_refused_call_may_have_cut_may_be_linked_or_not() -> None:
    """munmap cuts at its start before it finds that its end is within a granule."""
    steps = (
        shared(0),
        shared(1),
        Step(1, "munmap", (ADDRESS + GRANULE, GRANULE + PAGE)),
        Step(0, "load", (ADDRESS + GRANULE,)),
        Step(1, "load", (ADDRESS,)),
    )
    program = Program(FILES, steps)
    model = Model(program.files)
    expectations = [model.step(step) for step in program.steps]
    assert expectations[2][0].errno
    first, second = [ADDRESS, ADDRESS + PAGE], [ADDRESS + GRANULE, ADDRESS + GRANULE + PAGE]
    for present, linked in (([first], 1), ([first, second], 2)):
        found = Modelled().run(program)
        found["steps"][-1]["processes"]["1"] |= {"present": present, "shared": linked * GRANULE}
        assert first_difference(program, expectations, found) is None


class OnlyOnce(Modelled):
    """A kernel that goes wrong once and then never again."""

    def run(self, program: Program) -> dict[str, Any]:
        found = super().run(program)
        if len(self.programs) == 3:
            found["steps"][-1]["answer"] = [0, 5, "", 0]
        return found


def test_what_happened_once_is_told_as_it_was() -> None:
    kernel = OnlyOnce()
    found = search(kernel, 1, 30)
    assert found.divergence is not None
    assert found.divergence.difference.found == 5
    assert found.divergence.program == kernel.programs[2]
