# SPDX-License-Identifier: MIT
"""A guest of the lab that runs programs."""

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ptshare.conform.agents import compiled
from ptshare.conform.calls import Program
from ptshare.lab import cache
from ptshare.lab.guest import Guest
from ptshare.lab.image import Image

__all__ = ["KernelReportError", "LabKernel", "Runs"]

_BOOT_SECONDS = 180.0
_PROGRAM_SECONDS = 120.0


class Runs(Protocol):
    """Runs programs: :class:`ptshare.conform.kernel.Kernel`, here or in a guest."""

    def run(self, program: Program) -> dict[str, Any]:
        """See there."""


class KernelReportError(BaseException):
    """In a program or soon after one the guest's kernel reported something, died or hung, or what runs the
    programs did.

    No Exception, so that nobody tries to run more programs in that guest to make this one shorter.

    :param program: that the guest ran
    """

    def __init__(self, text: str, program: Program | None = None) -> None:
        super().__init__(text)
        self.program = program


class LabKernel:
    """A running guest. A context manager.

    :raises LabError: it does not start
    """

    def __init__(self, image: Image, memory: str = "4G", cpus: int = 4) -> None:
        programs = cache.directory() / "conform"
        compiled(programs)
        self._guest = Guest(
            [sys.executable, "-m", "ptshare.conform.serve", str(programs)],
            image=image,
            memory=memory,
            cpus=cpus,
        )
        self._pending = b""
        self._errors = b""

    def __enter__(self) -> Self:
        self._guest.__enter__()
        try:
            self._answer(_BOOT_SECONDS)
        except BaseException:
            self._guest.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guest.__exit__(kind, error, trace)

    @property
    def console(self) -> Path:
        """File with all that the kernel printed."""
        return self._guest.console

    def run(self, program: Program) -> dict[str, Any]:
        """Run a program in the guest.

        :raises KernelReportError: the kernel complained, or the program was not run to its end
        """
        self._guest.send(json.dumps(program).encode() + b"\n")
        try:
            return self._answer(_PROGRAM_SECONDS)
        except KernelReportError as error:
            error.program = program
            raise

    def _answer(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            if not self._guest.running or time.monotonic() > deadline:
                self._fail()
            for stream, data in self._guest.poll(0.5):
                if stream == "messages":
                    self._pending += data
                elif stream == "stderr":
                    self._errors += data
        line, _, self._pending = self._pending.partition(b"\n")
        self._check_console()
        found: dict[str, Any] = json.loads(line)
        return found

    def _check_console(self) -> None:
        if self._guest.reports:
            first = self._guest.reports[0]
            raise KernelReportError(
                f"the kernel reported: {first.text}; see {self._guest.console}:{first.line}"
            )

    def _fail(self) -> None:
        if self._guest.running:
            self._guest.time_out()
            self._check_console()
            raise KernelReportError(f"the guest hangs; see {self._guest.console}")
        self._check_console()
        if self._guest.status is None:
            raise KernelReportError(f"the guest ended; see {self._guest.console}")
        errors = self._errors.decode(errors="replace").strip()
        raise KernelReportError(f"what runs programs in the guest has ended:\n{errors}")
