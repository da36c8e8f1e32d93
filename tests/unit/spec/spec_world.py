# SPDX-License-Identifier: MIT
"""A small system for the tests of the model."""

from ptshare.spec.entries import GIB, GRANULE
from ptshare.spec.faults import access
from ptshare.spec.files import File, OpenFile
from ptshare.spec.invariants import broken
from ptshare.spec.state import READ, WRITE, Outcome, Process
from ptshare.spec.system import System

RW = READ | WRITE
AT = 64 * GIB


class World(System):
    """A system with a file of four granules, and short words for what is done in it."""

    def __init__(self) -> None:
        super().__init__()
        self.data = self.file("data", 4 * GRANULE)
        #: So much is mapped that to look at each entry after each step would take long.
        self.large = False

    def guest(
        self, prot: int = RW, writable: bool = True, file: File | None = None, at: int = AT, granules: int = 4
    ) -> Process:
        """A process that has the file mapped with shared tables."""
        process = self.process()
        opened = OpenFile(file or self.data, writable)
        assert self.mmap(process, at, granules * GRANULE, prot, opened, shared_pt=True) == Outcome(at)
        return process

    def plain(self, prot: int = RW, writable: bool = True, at: int = AT, granules: int = 4) -> Process:
        """A process that has the file mapped ordinarily."""
        process = self.process()
        assert self.mmap(process, at, granules * GRANULE, prot, OpenFile(self.data, writable)) == Outcome(at)
        return process

    def does(self, process: Process, address: int, right: int, value: int = 0, cpu: int = 0) -> Outcome:
        """An access, on a CPU that runs the process."""
        if self.cpus[cpu].runs is not process:
            self.switch(self.cpus[cpu], process)
        outcome = access(self, self.cpus[cpu], address, right, value)
        assert self.large or list(broken(self)) == []
        return outcome
