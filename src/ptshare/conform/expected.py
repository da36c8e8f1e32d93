# SPDX-License-Identifier: MIT
"""What the model says to a step: the same calls as in :mod:`ptshare.conform.kernel`, on
:mod:`ptshare.spec`.
"""

import errno
from typing import NamedTuple

from ptshare.conform.calls import ADDRESS, AREA, FIRST, PROCESSES, Flag, Step
from ptshare.conform.views import Looks, View
from ptshare.spec.entries import PAGE, PUD, span
from ptshare.spec.faults import access
from ptshare.spec.files import File, OpenFile
from ptshare.spec.system import EXECUTE, READ, WRITE, Outcome, Process, System

__all__ = ["Expectation", "Model", "ProgramError"]

_END = ADDRESS + AREA


class ProgramError(Exception):
    """A program calls on a process that is not there, or makes one where one is."""


class Expectation(NamedTuple):
    """What a step is expected to bring.

    :param answer: its faults are the most that there may be
    """

    answer: Outcome
    view: View


class Model:
    """The model, as programs see it."""

    def __init__(self, files: tuple[tuple[str, int], ...]) -> None:
        # One CPU a process, and one for who reads another's memory.
        self.system = System(cpus=PROCESSES + 1)
        self.files: list[File] = []
        self.kinds = [kind for kind, _ in files]
        for number, (kind, size) in enumerate(files):
            self.files.append(self.system.file(f"{kind} {number}", size))
        self.processes: dict[int, Process] = {}
        self._opened: dict[tuple[int, str], OpenFile] = {}
        #: Process and address of what was accessed.
        self._accessed: set[tuple[int, int]] = set()
        self._looks = Looks(self.system, self.files, self.processes)
        for place in range(FIRST):
            self._begin(place, self.system.process())

    def _begin(self, place: int, process: Process) -> None:
        self.processes[place] = process
        self.system.switch(self.system.cpus[place], process)

    def opened(self, file: int, mode: str) -> OpenFile:
        """A file, open in a way."""
        key = file, mode
        if key not in self._opened:
            self._opened[key] = OpenFile(
                self.files[file], writable=mode == "rw", no_execute=self.kinds[file] == "noexec"
            )
        return self._opened[key]

    def step(self, step: Step) -> Expectation:
        """Take a step.

        :raises ProgramError: whom it calls on is not there
        """
        taken = step.call == "fork" and step.number(0) in self.processes
        if taken or (step.process >= 0 and step.process not in self.processes):
            raise ProgramError(str(step))
        answer: Outcome = getattr(self, f"_do_{step.call}")(step)
        if answer.errno:
            numbers = [number for number in step.args if isinstance(number, int)]
            # Address and length of what was there, and for mremap() length and address of what was to be.
            self._looks.cut(*numbers[:1], sum(numbers[:2]), *numbers[3:4], sum(numbers[2:4]))
        return Expectation(answer, self._looks.look())

    # Steps

    def _process(self, step: Step) -> Process:
        return self.processes[step.process]

    def _do_mmap(self, step: Step) -> Outcome:
        address, length, prot, file, _, offset, flags = step.args
        assert isinstance(flags, int)
        return self.system.mmap(
            self._process(step),
            int(address),
            int(length),
            int(prot),
            self.opened(int(file), step.text(4)),
            int(offset),
            shared_pt=bool(flags & Flag.SHARED_PT),
            validate=not flags & Flag.NOREPLACE,
            locked=bool(flags & Flag.LOCKED),
            noreplace=bool(flags & Flag.NOREPLACE),
        )

    def _do_mmap_anywhere(self, step: Step) -> Outcome:
        """The address is congruent to the offset, so that it does not matter which."""
        length, file, offset = map(int, step.args)
        somewhere = _END + span(PUD) + offset
        answer = self.system.mmap(
            self._process(step), somewhere, length, READ, self.opened(file, "r"), offset, shared_pt=True
        )
        if answer.errno:
            return answer
        self.system.munmap(self._process(step), somewhere, length)
        return Outcome()

    def _do_munmap(self, step: Step) -> Outcome:
        return self.system.munmap(self._process(step), step.number(0), step.number(1))

    def _do_mprotect(self, step: Step) -> Outcome:
        return self.system.mprotect(self._process(step), *map(int, step.args))

    def _do_pkey_mprotect(self, step: Step) -> Outcome:
        return self.system.pkey_mprotect(self._process(step), *map(int, step.args))

    def _do_mremap(self, step: Step) -> Outcome:
        address, length, new_length, new_address = map(int, step.args)
        return self.system.mremap(
            self._process(step), address, length, new_length, new_address or None, bool(new_address)
        )

    def _do_madvise(self, step: Step) -> Outcome:
        address, length, advice = step.number(0), step.number(1), step.text(2)
        if advice == "PAGEOUT":
            self._looks.doubted(self._process(step), address, address + length)
        if advice.startswith("POPULATE"):
            self._looks.tried(self._process(step), address, address + length)
        return self.system.madvise(self._process(step), address, length, advice)

    def _do_mlock(self, step: Step) -> Outcome:
        self._looks.tried(self._process(step), step.number(0), step.number(0) + step.number(1))
        return self.system.mlock(self._process(step), step.number(0), step.number(1))

    def _do_munlock(self, step: Step) -> Outcome:
        return self.system.munlock(self._process(step), step.number(0), step.number(1))

    def _do_msync(self, step: Step) -> Outcome:
        return self.system.msync(self._process(step), step.number(0), step.number(1))

    def _do_mseal(self, step: Step) -> Outcome:
        return self.system.mseal(self._process(step), step.number(0), step.number(1))

    def _do_load(self, step: Step) -> Outcome:
        return self._access(step, READ)

    def _do_fetch(self, step: Step) -> Outcome:
        answer = self._access(step, EXECUTE)
        return answer._replace(value=0)

    def _do_store(self, step: Step) -> Outcome:
        answer = self._access(step, WRITE, step.number(1))
        return answer._replace(value=0)

    def _access(self, step: Step, right: int, value: int = 0) -> Outcome:
        process, address = self._process(step), step.number(0)
        self._looks.tried(process, address, address + 1)
        answer = access(self.system, self.system.cpus[step.process], address, right, value)
        # A processor may still have an older translation, with fewer rights: nobody flushes it when a right
        # is given. A fault then finds that all is there.
        if (process.pid, address) in self._accessed:
            answer = answer._replace(faults=max(1, answer.faults))
        self._accessed.add((process.pid, address))
        return answer

    def _do_vm_read(self, step: Step) -> Outcome:
        return self._through_the_kernel(step, READ, 0, errno.EFAULT)

    def _do_vm_write(self, step: Step) -> Outcome:
        return self._through_the_kernel(step, WRITE, step.number(1), errno.EFAULT)._replace(value=0)

    def _do_mem_write(self, step: Step) -> Outcome:
        return self._through_the_kernel(step, WRITE, step.number(1), errno.EIO)._replace(value=0)

    def _through_the_kernel(self, step: Step, right: int, value: int, refused: int) -> Outcome:
        process, address = self._process(step), step.number(0)
        self._looks.tried(process, address, address + 1)
        mapping = process.at(address)
        # A processor reads what may be written or executed; the kernel does not do so for others.
        if mapping is None or not mapping.protection_at(address) & right:
            return Outcome(-1, refused)
        cpu = self.system.cpus[PROCESSES]
        self.system.switch(cpu, process)
        answer = access(self.system, cpu, address, right, value)
        self.system.switch(cpu, None)
        if answer.signal:
            return Outcome(-1, refused)
        return answer

    def _do_fork(self, step: Step) -> Outcome:
        self._begin(step.number(0), self.system.fork(self._process(step)))
        return Outcome()

    def _do_exec(self, step: Step) -> Outcome:
        return self.system.exec(self._process(step))

    def _do_exit(self, step: Step) -> Outcome:
        return self.system.exit(self.processes.pop(step.process))

    def _do_kill(self, step: Step) -> Outcome:
        return self.system.kill(self.processes.pop(step.process))

    def _do_stay_awake(self, step: Step) -> Outcome:
        return Outcome()

    def _do_set_mdwe(self, step: Step) -> Outcome:
        return self.system.set_mdwe(self._process(step))

    def _do_truncate(self, step: Step) -> Outcome:
        return self.system.truncate(self.files[step.number(0)], step.number(1))

    def _do_punch(self, step: Step) -> Outcome:
        file, offset, length = map(int, step.args)
        return self.system.punch(self.files[file], offset // PAGE, (offset + length) // PAGE)

    def _do_fsync(self, step: Step) -> Outcome:
        self.system.fsync(self.files[step.number(0)])
        return Outcome()

    def _do_seal(self, step: Step) -> Outcome:
        return self.system.seal(self.files[step.number(0)], "future_write")

    def _do_enable(self, step: Step) -> Outcome:
        self.system.enabled = bool(step.number(0))
        return Outcome()
