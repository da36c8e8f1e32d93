# SPDX-License-Identifier: MIT
"""Random programs: hypothesis chooses the calls, and makes a program that fails as short as it can.

Rules are taken on the model, which says what there is to be called on; the kernel runs the whole program at
its end, so that there is one message for all of its steps.
"""

from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ptshare.conform.calls import ADDRESS, AREA, KINDS, MODES, PROCESSES, Flag, Program, Step
from ptshare.conform.compare import Difference, first_difference
from ptshare.conform.expected import Expectation, Model
from ptshare.conform.link import Runs
from ptshare.spec.state import Mapping
from ptshare.syscalls import GIB, GRANULE, PAGE

__all__ = ["Divergence", "Machine"]

#: Sizes of the two files: one ends within a page, one is larger than a GiB.
_SIZES = (3 * GRANULE + 5 * PAGE + 100, 2 * GIB + GRANULE)
#: One instruction each, so that any of them can be executed; zeros can, too.
_VALUES = (0x90, 0xC3, 0xF8, 0xF9, 0xFC)
_EXECUTE = 4
_PROT = st.sampled_from([0, 1, 3, 5, 7, 2, 4])
_MOSTLY = st.sampled_from([True] * 7 + [False])

#: Mode, protection and flags of a mapping that there can be.
_MAPPING = st.sampled_from(
    [
        *[("rw", 3, Flag.SHARED_PT)] * 4,
        *[("rw", 7, Flag.SHARED_PT)] * 2,
        ("rw", 1, Flag.SHARED_PT),
        ("rw", 0, Flag.SHARED_PT),
        *[("r", 1, Flag.SHARED_PT)] * 2,
        ("r", 5, Flag.SHARED_PT),
        ("rw", 3, 0),
        ("r", 1, 0),
    ]
)

_SMALL = [ADDRESS + at * GRANULE for at in range(6)]
_LARGE = [ADDRESS + at * GIB for at in range(1, 5)]
_LENGTHS = [GRANULE, 2 * GRANULE, 3 * GRANULE, 4 * GRANULE]
_ADVICE = (
    *["DONTNEED"] * 3,
    *["POPULATE_READ"] * 2,
    *["POPULATE_WRITE", "REMOVE", "COLD", "PAGEOUT", "WILLNEED", "NORMAL", "RANDOM", "SEQUENTIAL"],
    *["DONTFORK", "DOFORK", "DONTDUMP", "DODUMP", "NOHUGEPAGE", "HUGEPAGE", "COLLAPSE"],
)
#: Advice that touches each page of a range, or forgets it.
_EACH_PAGE = {"POPULATE_READ", "POPULATE_WRITE", "REMOVE", "PAGEOUT", "COLD"}


class Divergence(BaseException):
    """The kernel did something else than the model.

    No Exception: hypothesis would run the program again, and complain of one that does not fail each time
    because it depends on which processor was quicker.

    :param program: up to the step at which it did
    """

    def __init__(self, program: Program, difference: Difference) -> None:
        super().__init__(str(difference))
        self.program = program
        self.difference = difference


class Machine(RuleBasedStateMachine):
    """One program. A subclass has :attr:`kernel`."""

    kernel: ClassVar[Runs]
    #: Steps that the kernel has run, of all programs.
    steps: ClassVar[int] = 0

    @initialize(
        kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
        mappings=st.tuples(_MAPPING, _MAPPING),
        at=st.sampled_from([_SMALL[0], _SMALL[0], _LARGE[0]]),
    )
    def begin(
        self, kinds: tuple[str, str], mappings: tuple[tuple[str, int, int], tuple[str, int, int]], at: int
    ) -> None:
        """Files; two processes that have the same mapping, and one that may have another: little happens to
        who has none."""
        self._program = Program(tuple(zip(kinds, _SIZES, strict=True)))
        self._model = Model(self._program.files)
        self._steps: list[Step] = []
        self._expected: list[Expectation] = []
        for process, (mode, prot, flags) in enumerate((mappings[0], mappings[0], mappings[1])):
            self._take(process, "mmap", _SMALL[0], 4 * GRANULE, prot, 0, mode, 0, flags)
            if at != _SMALL[0]:
                self._take(process, "mmap", at, 2 * GIB, prot, 1, mode, 0, flags)

    def teardown(self) -> None:
        """Have the kernel run it, and compare."""
        if not getattr(self, "_steps", None):
            return
        program = self._program._replace(steps=tuple(self._steps))
        found = self.kernel.run(program)
        type(self).steps += len(program.steps)
        difference = first_difference(program, self._expected, found)
        if difference is not None:
            steps = program.steps[: difference.step + 1]
            raise Divergence(program._replace(steps=steps), difference)

    def _take(self, process: int, call: str, *args: int | str) -> None:
        step = Step(process, call, args)
        if call in ("mmap", "mprotect", "pkey_mprotect") and args[2] == _EXECUTE and self._ordinary(step):
            # Where the processor has protection keys, one of the process's own makes it unreadable, too.
            step = step._replace(args=(*args[:2], _EXECUTE | 1, *args[3:]))
        if call == "madvise" and args[2] == "COLLAPSE" and self._ordinary(step):
            # The model has no huge pages.
            step = step._replace(args=(*args[:2], "NOHUGEPAGE"))
        self._steps.append(step)
        self._expected.append(self._model.step(step))

    def _ordinary(self, step: Step) -> bool:
        """Is it about an ordinary mapping?"""
        if step.call == "mmap":
            return not step.number(6) & Flag.SHARED_PT
        start = step.number(0)
        mappings = self._model.processes[step.process].within(start, start + step.number(1))
        return any(mapping.domain is None for mapping in mappings)

    # What to call on

    def _someone(self, data: Any) -> int:
        found: int = data.draw(st.sampled_from(sorted(self._model.processes)))
        return found

    def _somewhere(self, data: Any, process: int) -> int:
        """The begin of a granule, mostly of one that is mapped."""
        mappings = self._model.processes[process].mappings
        if mappings and data.draw(_MOSTLY):
            mapping = data.draw(st.sampled_from(mappings))
            last = (mapping.length - 1) // GRANULE
            granule = data.draw(st.sampled_from(sorted({0, min(1, last), min(2, last), last})))
            at: int = mapping.start // GRANULE * GRANULE + granule * GRANULE
            return at
        found: int = data.draw(st.sampled_from(_SMALL + _LARGE))
        return found

    def _page(self, data: Any, process: int) -> int:
        """The address of a page."""
        page: int = data.draw(st.sampled_from([0, 0, 1, 2, 511]))
        return self._somewhere(data, process) + page * PAGE

    def _range(self, data: Any, process: int, small: bool = False) -> tuple[int, int]:
        """An address and a length, mostly whole granules."""
        if data.draw(_MOSTLY):
            start = self._somewhere(data, process)
            lengths = [*_LENGTHS, GRANULE, GRANULE]
            if not small and start >= ADDRESS + GIB:
                lengths += [GIB, GIB + GRANULE, 2 * GIB]
            return start, data.draw(st.sampled_from(lengths))
        return self._page(data, process), data.draw(
            st.sampled_from([PAGE, 2 * PAGE, GRANULE, GRANULE + PAGE])
        )

    def _to_seam(self, process: int, start: int) -> int:
        """Bytes to where a mapping is continued by another one: the kernel may have made one of the two, and
        then mremap(2) goes over it. An area's size if it is not.
        """
        mapping = self._model.processes[process].at(start)
        following = mapping and self._model.processes[process].at(mapping.end)
        if not mapping or not following:
            return AREA
        continued = mapping.file is following.file and mapping.offset + mapping.length == following.offset
        return mapping.end - start if continued and mapping.domain is following.domain else AREA

    # Address space

    @rule(
        data=st.data(),
        file=st.sampled_from([0, 0, 1]),
        prot=_PROT,
        mode=st.sampled_from(MODES),
        shared=_MOSTLY,
        rare=st.integers(0, 15),
    )
    def mmap(self, data: Any, file: int, prot: int, mode: str, shared: bool, rare: int) -> None:
        """Anything: parts of the small file, or large ones of the large one."""
        process = self._someone(data)
        flags = Flag.SHARED_PT if shared else 0
        flags |= Flag.NOREPLACE if rare == 1 else 0
        if file == 0:
            start, length = data.draw(st.sampled_from(_SMALL)), data.draw(st.sampled_from(_LENGTHS))
            offset = data.draw(st.sampled_from([0, 0, GRANULE, 2 * GRANULE]))
            flags |= Flag.LOCKED if rare == 2 else 0
        else:
            start = data.draw(st.sampled_from([*_LARGE, _LARGE[0] + GRANULE]))
            length = data.draw(st.sampled_from([GIB, GIB + GRANULE, 2 * GIB]))
            offset = data.draw(st.sampled_from([0, 0, GIB, GRANULE]))
        if rare == 3:
            length += PAGE
        elif rare == 4:
            start += PAGE
        elif rare == 5:
            offset += PAGE
        self._take(process, "mmap", start, length, prot, file, mode, offset, flags)

    @rule(data=st.data(), mapping=_MAPPING, file=st.sampled_from([0, 0, 1]))
    def mmap_well(self, data: Any, mapping: tuple[str, int, int], file: int) -> None:
        """What is granted, but for noexec."""
        (mode, prot, flags), process = mapping, self._someone(data)
        start = data.draw(st.sampled_from(_SMALL if file == 0 else _LARGE))
        length = data.draw(st.sampled_from(_LENGTHS if file == 0 else [GIB, 2 * GIB]))
        self._take(process, "mmap", start, length, prot, file, mode, 0, flags)

    @rule(data=st.data(), elsewhere=st.booleans())
    def join(self, data: Any, elsewhere: bool) -> None:
        """Map what somebody has mapped, in the same way."""
        process, model = self._someone(data), self._model
        mappings = [one for place in sorted(model.processes) for one in model.processes[place].mappings]
        if mappings:
            one = data.draw(st.sampled_from(mappings))
            start = data.draw(st.sampled_from(_SMALL)) if elsewhere else one.start
            file, mode = model.files.index(one.file), "rw" if one.opened.writable else "r"
            flags = Flag.SHARED_PT if one.domain else 0
            self._take(process, "mmap", start, one.length, one.prot, file, mode, one.offset, flags)

    @rule(data=st.data())
    def munmap(self, data: Any) -> None:
        """A part, mostly of whole granules."""
        process = self._someone(data)
        self._take(process, "munmap", *self._range(data, process))

    @rule(data=st.data(), prot=_PROT)
    def mprotect(self, data: Any, prot: int) -> None:
        """Pages, mostly."""
        process = self._someone(data)
        start = self._page(data, process)
        length = data.draw(st.sampled_from([PAGE, PAGE, 2 * PAGE, GRANULE, 2 * GRANULE]))
        self._take(process, "mprotect", start, length, prot)

    @rule(data=st.data(), move=st.booleans())
    def mremap(self, data: Any, move: bool) -> None:
        """Moved, shrunk and grown."""
        process = self._someone(data)
        start, length = self._range(data, process, small=True)
        length = min(length, self._to_seam(process, start))
        new_length = data.draw(st.sampled_from([length, *_LENGTHS, length + PAGE]))
        where = data.draw(st.sampled_from(_SMALL + _LARGE[:2])) if move else 0
        self._take(process, "mremap", start, length, new_length, where)

    @rule(data=st.data(), advice=st.sampled_from(_ADVICE))
    def madvise(self, data: Any, advice: str) -> None:
        """All advice that there is."""
        process = self._someone(data)
        self._take(process, "madvise", *self._range(data, process, advice in _EACH_PAGE), advice)

    @rule(data=st.data(), call=st.sampled_from(["mlock", "munlock"]))
    def mlock(self, data: Any, call: str) -> None:
        """And unlock."""
        process = self._someone(data)
        self._take(process, call, *self._range(data, process, small=True))

    # Accesses

    @rule(data=st.data(), call=st.sampled_from(["load", "load", "fetch", "vm_read"]))
    def read(self, data: Any, call: str) -> None:
        """By the process itself, or through the kernel."""
        process = self._someone(data)
        self._take(process, call, self._page(data, process))

    @rule(
        data=st.data(),
        call=st.sampled_from(["store", "store", "store", "vm_write", "mem_write"]),
        value=st.sampled_from(_VALUES),
    )
    def write(self, data: Any, call: str, value: int) -> None:
        """By the process itself, or through the kernel."""
        process = self._someone(data)
        self._take(process, call, self._page(data, process), value)

    @rule(data=st.data(), right=st.sampled_from(["load", "store", "fetch"]), value=st.sampled_from(_VALUES))
    def all_at_one_page(self, data: Any, right: str, value: int) -> None:
        """Each process that has it, one after the other: who is last finds what the others have left."""
        process = self._someone(data)
        address = self._page(data, process)
        for one in sorted(self._model.processes):
            self._take(one, right, address, *([value] if right == "store" else []))

    @rule(
        data=st.data(),
        change=st.sampled_from(
            ["mprotect", "punch", "truncate", "fsync", "REMOVE", "PAGEOUT", "munmap", "DONTNEED"]
        ),
    )
    def change_under_one_who_is_awake(self, data: Any, change: str) -> None:
        """Its processor holds a translation; somebody changes what that leads to; it is used again."""
        self._under_one_who_is_awake(data, change)

    def _under_one_who_is_awake(self, data: Any, change: str) -> None:
        process = self._someone(data)
        address = self._page(data, process)
        mapping = self._model.processes[process].at(address)
        granted = mapping.protection_at(address) if mapping else 0
        rights = [(call, bit) for call, bit in (("store", 2), ("load", 1), ("fetch", 4)) if granted & bit]
        if mapping is None or not rights:
            return
        call, bit = data.draw(st.sampled_from(rights))
        args = (address, _VALUES[0]) if call == "store" else (address,)
        without = [prot for prot in (1, 0, 5, 3, 4) if not prot & bit]
        self._take(process, "stay_awake", 3)
        self._take(process, call, *args)
        prot = data.draw(st.sampled_from([*without, 3, 7]))
        self._change(data, process, mapping, mapping.page(address), change, prot)
        self._take(process, call, *args)

    @rule(data=st.data())
    def right_taken_from_one_who_is_awake(self, data: Any) -> None:
        """The same, of protection alone."""
        self._under_one_who_is_awake(data, "mprotect")

    def _change(self, data: Any, process: int, mapping: Mapping, page: int, change: str, prot: int) -> None:
        """Somebody else, or nobody, changes a page of a file; or the process itself lets go of it."""
        file = self._model.files.index(mapping.file)
        granule = mapping.address(page) // GRANULE * GRANULE
        if change == "punch":
            self._take(-1, "punch", file, page * PAGE, PAGE)
        elif change == "truncate":
            self._take(-1, "truncate", file, page * PAGE)
        elif change == "fsync":
            self._take(-1, "fsync", file)
        elif change == "munmap":
            self._take(process, "munmap", granule, GRANULE)
        elif change == "DONTNEED":
            self._take(process, "madvise", granule, GRANULE, change)
        else:
            others = [
                (place, one.address(page))
                for place in sorted(self._model.processes)
                for one in self._model.processes[place].mappings
                if place != process and one.file is mapping.file and one.start <= one.address(page) < one.end
            ]
            if others:
                other, address = data.draw(st.sampled_from(others))
                advised = change != "mprotect"
                self._take(
                    other,
                    "madvise" if advised else "mprotect",
                    address,
                    PAGE,
                    change if advised else prot,
                )

    # Processes

    @precondition(lambda self: len(self._model.processes) < PROCESSES)
    @rule(data=st.data())
    def fork(self, data: Any) -> None:
        """A child in the first free place."""
        free = next(place for place in range(PROCESSES) if place not in self._model.processes)
        self._take(self._someone(data), "fork", free)

    @precondition(lambda self: len(self._model.processes) > 1)
    @rule(data=st.data(), call=st.sampled_from(["exit", "kill"]))
    def end(self, data: Any, call: str) -> None:
        """But for the last one."""
        self._take(self._someone(data), call)

    # Files

    @rule(size=st.sampled_from([0, PAGE, GRANULE, GRANULE + 100, *[_SIZES[0]] * 3, 5 * GRANULE]))
    def truncate(self, size: int) -> None:
        """The small one, shorter or longer."""
        self._take(-1, "truncate", 0, size)

    @rule(file=st.sampled_from([0, 1]), granule=st.integers(0, 2), page=st.sampled_from([0, 1, 511]))
    def punch(self, file: int, granule: int, page: int) -> None:
        """A page or two."""
        self._take(-1, "punch", file, granule * GRANULE + page * PAGE, 2 * PAGE)

    @rule(file=st.sampled_from([0, 1]))
    def fsync(self, file: int) -> None:
        """What is dirty must be found so again."""
        self._take(-1, "fsync", file)

    # What is called seldom: one rule for all, so that the others come more often

    @rule(
        data=st.data(),
        call=st.sampled_from(
            [
                "mmap_anywhere",
                "pkey_mprotect",
                "pkey_mprotect",
                "msync",
                "mseal",
                "stay_awake",
                "exec",
                "set_mdwe",
                "seal",
                "enable",
            ]
        ),
    )
    def seldom(self, data: Any, call: str) -> None:
        """One of them."""
        getattr(self, f"_{call}")(data, self._someone(data))

    def _mmap_anywhere(self, data: Any, process: int) -> None:
        """Where the kernel likes."""
        length = data.draw(st.sampled_from([GRANULE, 2 * GIB]))
        self._take(process, "mmap_anywhere", length, 1, data.draw(st.sampled_from([0, GRANULE, GIB])))

    def _pkey_mprotect(self, data: Any, process: int) -> None:
        """Key 1 is not allocated."""
        prot, key = data.draw(_PROT), data.draw(st.sampled_from([-1, 0, 1]))
        self._take(process, "pkey_mprotect", self._page(data, process), PAGE, prot, key)

    def _msync(self, data: Any, process: int) -> None:
        """With MS_SYNC."""
        self._take(process, "msync", *self._range(data, process, small=True))

    def _mseal(self, data: Any, process: int) -> None:
        """It is for good."""
        self._take(process, "mseal", *self._range(data, process))

    def _stay_awake(self, data: Any, process: int) -> None:
        """So that its processor keeps the translations that it has."""
        self._take(process, "stay_awake", data.draw(st.sampled_from([1, 2, 4])))

    def _exec(self, data: Any, process: int) -> None:
        """The same program."""
        self._take(process, "exec")

    def _set_mdwe(self, data: Any, process: int) -> None:
        """It is for good."""
        self._take(process, "set_mdwe")

    def _seal(self, data: Any, process: int) -> None:
        """Memfds only: no other file can be."""
        for file, (kind, _) in enumerate(self._program.files):
            if kind == "memfd":
                self._take(-1, "seal", file)

    def _enable(self, data: Any, process: int) -> None:
        """New mappings are refused, or granted again."""
        self._take(-1, "enable", int(not self._model.system.enabled))
