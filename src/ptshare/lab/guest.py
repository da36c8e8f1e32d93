# SPDX-License-Identifier: MIT
"""Boot an image and run one command in it."""

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ptshare.lab import cache, kvm, machine
from ptshare.lab.console import Report, Scanner
from ptshare.lab.errors import LabError
from ptshare.lab.image import Image

__all__ = ["CRASHED", "REPORTED", "TIMED_OUT", "Guest", "GuestResult", "run_guest"]

#: Exit statuses of ``ptshare lab run`` that are not the command's own.
REPORTED = 120  # the kernel printed a report
CRASHED = 121  # the guest ended before the command did
TIMED_OUT = 124  # as timeout(1)

#: Size of ``/dev/vda``. It takes what the guest has written, and nothing when the guest is gone.
_SCRATCH_BYTES = 2 << 30

_OUTPUTS = ("stdout", "stderr", "messages")
#: For what a guest says before it is stopped: 0.3 s, and some times as long on a busy machine.
_DUMP_SECONDS = 30.0


@dataclass(frozen=True)
class GuestResult:
    """How a run ended.

    :param status: the command's exit status (128 + n if signal n ended it), ``None``: the guest ended without
        one
    :param timed_out: the guest was stopped because its time was up
    :param reports: what the kernel complained about; each is a failure of its own
    :param console: file with all that the kernel printed
    :param seconds_to_boot: wall-clock seconds from starting QEMU to starting the command, ``None``: never
        started
    """

    status: int | None
    timed_out: bool
    reports: tuple[Report, ...]
    console: Path
    seconds_to_boot: float | None

    @property
    def ok(self) -> bool:
        """The command ended with 0 and the kernel did not complain."""
        return self.status == 0 and not self.reports

    @property
    def exit_status(self) -> int:
        """What ``ptshare lab run`` exits with: 120 a kernel report, 121 a crash, 124 a timeout, else the
        command's.
        """
        if self.reports:
            return REPORTED
        if self.timed_out:
            return TIMED_OUT
        return CRASHED if self.status is None else self.status

    def complaint(self) -> str | None:
        """What went wrong other than the command's own failure, in one line; ``None``: nothing."""
        if self.reports:
            first = self.reports[0]
            more = f" (and {len(self.reports) - 1} more)" if len(self.reports) > 1 else ""
            return f"the kernel reported: {first.text}{more}; see {self.console}:{first.line}"
        if self.timed_out:
            return f"the guest was stopped: its time was up; see {self.console}"
        if self.status is None:
            return f"the guest ended before the command did; see {self.console}"
        return None


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """The job's variables: the guest's own, the user's language and terminal, and the project's Python first
    in PATH.
    """
    env = {
        "PATH": os.pathsep.join(
            [os.path.dirname(sys.executable), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        ),
        "HOME": "/root",
        "USER": "root",
        "SHELL": "/bin/bash",
        "PTSHARE_LAB": "1",
        # Bytecode written in the guest would be thrown away with it.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    env |= {name: value for name in ("LANG", "LC_ALL", "TERM") if (value := os.environ.get(name))}
    return env | dict(extra or {})


class Guest:
    """A running guest, with one job. A context manager: at its end the machine is gone, whatever happened.

    It has a scratch disk of its own, ``/dev/vda``: empty, and gone with the guest. QEMU is started once more
    if it crashes while the guest boots, as its emulation does now and then on a busy host.

    :raises LabError: QEMU or virtme-ng is missing
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        image: Image,
        memory: str = "4G",
        cpus: int = 4,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
        giant_pages: int = 0,
        icount: bool = False,
    ) -> None:
        self.reports: list[Report] = []
        self.status: int | None = None
        self.seconds_to_boot: float | None = None
        self.timed_out = False
        self.console = cache.new_run_directory() / "console.log"
        self.console.touch()
        self._console_reader = self.console.open("rb")
        self._stderr = self.console.with_name("qemu.log")
        self._selector = selectors.DefaultSelector()
        self._crashes = 0
        #: What was sent before the guest was there to read it.
        self._sent = b""
        size = shutil.get_terminal_size()
        job: dict[str, Any] = {
            "argv": list(argv),
            "cwd": str(cwd or Path.cwd()),
            "env": _environment(env),
            "tty": "hvc0" if terminal else None,
            "size": [size.lines, size.columns],
        }
        self._job = json.dumps(job).encode() + b"\n"
        self._machine = machine.Machine(
            kernel=image.bzimage,
            memory=machine.parse_size(memory),
            cpus=cpus,
            kvm=not icount and kvm.works(image.bzimage),
            console=self.console,
            terminal=terminal,
            giant_pages=giant_pages,
            icount=icount,
        )
        self._start()

    def _start(self) -> None:
        """Start QEMU, and hand it the job."""
        self._scanner = Scanner()
        os.truncate(self.console, 0)
        self._console_reader.seek(0)
        self._control = b""
        terminal = self._machine.terminal
        with contextlib.ExitStack() as stack:
            theirs: dict[str, socket.socket] = {}
            for name in ("control", *_OUTPUTS):
                ours, theirs[name] = socket.socketpair()
                stack.enter_context(theirs[name])
                self._selector.register(ours, selectors.EVENT_READ, name)
                if name == "control":
                    self._host = ours
                elif name == "messages":
                    self._messages = ours
            # A file without a name: it goes with the last process that has it open, however that one ends.
            scratch = stack.enter_context(tempfile.TemporaryFile(dir=self.console.parent))
            scratch.truncate(_SCRATCH_BYTES)
            ports = {name: end.fileno() for name, end in theirs.items()}
            command = machine.command(replace(self._machine, ports=ports, scratch=scratch.fileno()))
            with self._stderr.open("wb") as log:
                self._started = time.monotonic()
                # setpriv: the machine dies with this process, even by SIGKILL. A session of its own keeps the
                # terminal's Ctrl-C from QEMU, so that this process decides.
                self._qemu = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "--", *command],
                    stdin=None if terminal else subprocess.DEVNULL,
                    stdout=None if terminal else log,
                    stderr=log,
                    pass_fds=(*ports.values(), scratch.fileno()),
                    start_new_session=not terminal,
                )
        # A QEMU that has ended already is found by whoever waits for the guest.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._host.sendall(self._job)
            self._messages.sendall(self._sent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._read_console()
        self._console_reader.close()
        for key in list(self._selector.get_map().values()):
            self._close(key)
        self._selector.close()

    @property
    def running(self) -> bool:
        """More may come from :meth:`poll`."""
        return bool(self._selector.get_map())

    def poll(self, seconds: float) -> list[tuple[str, bytes]]:
        """Wait for output and return it as (``stdout`` | ``stderr`` | ``messages``, bytes).

        Reports that the kernel printed before a returned message was sent are in :attr:`reports`.
        """
        output = []
        for key, _ in self._selector.select(seconds):
            name = key.data
            try:
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
            except ConnectionResetError:
                data = b""
            if not data:
                self._close(key)
            elif name == "control":
                self._take_control(data)
            else:
                output.append((name, data))
        self._read_console()
        if not self.running and self._crashed():
            self._crashes += 1
            self._start()
        return output

    def _crashed(self) -> bool:
        """QEMU has crashed for the first time, before the guest could begin with its job."""
        if self.seconds_to_boot is not None or self.timed_out or self._crashes:
            return False
        try:
            return self._qemu.wait(10) in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS)
        except subprocess.TimeoutExpired:
            return False

    def send(self, data: bytes) -> None:
        """To the job, which reads it from the file descriptor named by PTSHARE_MESSAGES_FD."""
        if self.seconds_to_boot is None:
            self._sent += data
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._messages.sendall(data)

    def dump(self) -> None:
        """Have the kernel print which tasks are blocked and where, and end the job; a hung guest may not."""
        with contextlib.suppress(OSError):
            self._host.sendall(b'{"dump": true}\n')

    def time_out(self) -> list[tuple[str, bytes]]:
        """The time is up: have kernel and job tell where they hang, stop it, return its last output."""
        self.timed_out = True
        self.dump()
        deadline = time.monotonic() + _DUMP_SECONDS
        output = []
        while self.running and time.monotonic() < deadline:
            output += self.poll(0.2)
        self.stop()
        return output

    def stop(self) -> None:
        """End the machine, at once if it does not end by itself."""
        if self.status is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._qemu.wait(10)
        if self._qemu.poll() is None:
            self._qemu.kill()
            self._qemu.wait()

    def result(self) -> GuestResult:
        """How it ended. Call it after the ``with`` block.

        :raises LabError: QEMU could not start the machine
        """
        if self.seconds_to_boot is None and not self.timed_out and self.console.stat().st_size == 0:
            lines = self._stderr.read_text(errors="replace").strip().splitlines() or ["no message"]
            raise LabError(f"QEMU did not start the guest: {lines[-1]}")
        return GuestResult(
            self.status, self.timed_out, tuple(self.reports), self.console, self.seconds_to_boot
        )

    def _take_control(self, data: bytes) -> None:
        *lines, self._control = (self._control + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "ready" in message:
                self.seconds_to_boot = time.monotonic() - self._started
            if "status" in message:
                self.status = int(message["status"])

    def _read_console(self) -> None:
        self.reports += self._scanner.feed(self._console_reader.read())

    def _close(self, key: selectors.SelectorKey) -> None:
        self._selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]


def run_guest(
    argv: Sequence[str],
    *,
    image: Image,
    memory: str = "4G",
    cpus: int = 4,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: Callable[[bytes], object] | None = None,
    stderr: Callable[[bytes], object] | None = None,
    messages: Callable[[bytes], object] | None = None,
    timeout: float | None = None,
    giant_pages: int = 0,
    icount: bool = False,
) -> GuestResult:
    """Boot ``image``, run ``argv`` as root with the host's files (changes to them stay in the guest), power
    off.

    :param memory: of the guest, such as ``4G``; the host gives it page by page, as the guest uses it
    :param cwd: directory to run in, default: the current one
    :param env: variables in addition to those that the guest sets itself
    :param stdout: called with what the command writes, as it comes; default: dropped
    :param stderr: the same for its standard error, kept apart from the kernel's console
    :param messages: called with what the guest writes to the file descriptor named by PTSHARE_MESSAGES_FD
    :param timeout: seconds of wall-clock time from starting QEMU; then the guest is stopped
    :param giant_pages: hugetlb pages of 1 GiB that are reserved at boot
    :param icount: emulate, and let the guest's clock count instructions: see docs/bench.md
    :raises LabError: QEMU or virtme-ng is missing, or the guest cannot be started
    """
    sinks = {"stdout": stdout, "stderr": stderr, "messages": messages}
    deadline = None if timeout is None else time.monotonic() + timeout
    with Guest(
        argv,
        image=image,
        memory=memory,
        cpus=cpus,
        cwd=cwd,
        env=env,
        giant_pages=giant_pages,
        icount=icount,
    ) as guest:
        while guest.running:
            output = guest.poll(0.5)
            if deadline is not None and time.monotonic() > deadline and guest.status is None:
                output += guest.time_out()
            for name, data in output:
                sink = sinks[name]
                if sink is not None:
                    sink(data)
            if guest.timed_out:
                break
    return guest.result()
