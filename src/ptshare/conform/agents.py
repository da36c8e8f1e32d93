# SPDX-License-Identifier: MIT
"""Processes that do what they are told: ``agent.c``, compiled when it is needed."""

import hashlib
import os
import select
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["Agent", "AgentError", "Agents", "Reply", "compiled"]

_SOURCE = Path(__file__).with_name("agent.c")
_FLAGS = ("-O2", "-Wall", "-Wextra", "-mno-red-zone", "-static")

_REQUEST = struct.Struct("=II7q192s")
_REPLY = struct.Struct("=qiiq")
_DATA_BYTES = 192

_SYSCALL, _LOAD, _STORE, _FETCH, _FORK, _EXEC, _STAY_AWAKE = range(7)
_SIGNALS = {0: "", signal.SIGSEGV: "SIGSEGV", signal.SIGBUS: "SIGBUS"}


class AgentError(Exception):
    """A process did not answer, or not as it must."""


class Reply(NamedTuple):
    """What a process saw.

    :param value: what the call returned; of an access what was read
    :param errno: 0, or of the call
    :param signal: "SIGSEGV", "SIGBUS" or empty
    :param faults: that an access took
    """

    value: int
    errno: int
    signal: str
    faults: int


def compiled(directory: Path) -> Path:
    """The program, in a directory where it is kept.

    :raises AgentError: there is no compiler, or it fails
    """
    source = _SOURCE.read_bytes()
    key = hashlib.sha256(source + " ".join(_FLAGS).encode()).hexdigest()[:16]
    path = directory / f"agent-{key}"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        try:
            subprocess.run(
                ["cc", *_FLAGS, "-o", str(new), str(_SOURCE)], check=True, capture_output=True, text=True
            )
        except FileNotFoundError:
            raise AgentError("there is no C compiler (cc); install one with: apt-get install gcc") from None
        except subprocess.CalledProcessError as error:
            raise AgentError(f"{_SOURCE} does not compile:\n{error.stderr}") from None
        new.replace(path)
    return path


class Agent:
    """One process, at the other end of a socket."""

    def __init__(self, ours: socket.socket, number: int) -> None:
        self._socket = ours
        #: What its end is called in all agents.
        self.number = number
        self.pid = 0
        self._pidfd = -1
        self._data = 0
        #: Open files of its own, by what they are.
        self.files: dict[tuple[int, str], int] = {}

    def began(self) -> None:
        """Wait until it says that it is there."""
        self._data, self.pid, _, _ = self._received()
        self.close()
        self._pidfd = os.pidfd_open(self.pid)

    def close(self) -> None:
        """Forget the process that was there."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd = -1

    @property
    def alive(self) -> bool:
        """There is a process."""
        return self._pidfd >= 0

    def syscall(self, number: int, *args: int, data: bytes = b"") -> Reply:
        """A system call.

        :param data: what the address that :attr:`data` stands for leads to
        """
        return self._ask(_SYSCALL, number, *args, data=data)

    @property
    def data(self) -> int:
        """The address of what is sent along with a call."""
        return self._data

    def load(self, address: int) -> Reply:
        """Read a byte."""
        return self._ask(_LOAD, address)

    def store(self, address: int, value: int) -> Reply:
        """Write a byte."""
        return self._ask(_STORE, address, value)

    def fetch(self, address: int) -> Reply:
        """Execute one instruction."""
        return self._ask(_FETCH, address)

    def stay_awake(self, requests: int) -> Reply:
        """Do not give the processor up until so many more requests have come."""
        return self._ask(_STAY_AWAKE, requests)

    def fork(self, child: "Agent") -> Reply:
        """A child answers at another agent's socket."""
        answer = self._ask(_FORK, child.number)
        if not answer.errno:
            child.began()
            child.files = dict(self.files)
        return answer

    def exec(self) -> Reply:
        """The program begins anew, with its descriptors and nothing else."""
        self._send(_EXEC, self.number)
        self.began()
        return Reply(0, 0, "", 0)

    def end(self, kill: bool) -> None:
        """It ends, by itself or not, and has let go of its memory."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        else:
            self._send(_SYSCALL, 231)  # exit_group
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(20_000):
            raise AgentError(f"process {self.pid} does not end")
        self.close()
        self.files = {}

    def _ask(self, op: int, *args: int, data: bytes = b"") -> Reply:
        if not self.alive:
            raise AgentError("there is no process in this place")
        self._send(op, *args, data=data)
        value, number, signum, faults = self._received()
        if signum and number:
            raise AgentError(f"process {self.pid}: signal {signum} for another address than was asked for")
        return Reply(value, number, _SIGNALS[signum], faults)

    def _send(self, op: int, *args: int, data: bytes = b"") -> None:
        assert len(data) <= _DATA_BYTES
        fixed = [*args, *[0] * (7 - len(args))]
        self._socket.send(_REQUEST.pack(op, len(data), *fixed, data))

    def _received(self) -> tuple[int, int, int, int]:
        try:
            answer = self._socket.recv(_REPLY.size)
        except TimeoutError:
            raise AgentError(f"process {self.pid} does not answer") from None
        if len(answer) != _REPLY.size:
            raise AgentError(f"process {self.pid} is gone")
        value, number, signum, faults = _REPLY.unpack(answer)
        return value, number, signum, faults


class Agents:
    """So many places for processes, and one process more, which begins the first in each place."""

    def __init__(self, program: Path, count: int) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count + 1)]
        for ours, _ in pairs:
            ours.settimeout(60)
        theirs = [their.fileno() for _, their in pairs]
        self.places = [Agent(ours, fd) for (ours, _), fd in zip(pairs, theirs, strict=True)]
        self._first = self.places.pop()
        #: Descriptors from here on are files.
        self.above = max(theirs) + 1
        self._process = subprocess.Popen(
            [str(program), str(self._first.number)], pass_fds=theirs, stdin=subprocess.DEVNULL
        )
        for _, their in pairs:
            their.close()
        self._first.began()

    def begin(self, place: int) -> Agent:
        """A new process in a place."""
        agent = self.places[place]
        answer = self._first.fork(agent)
        if answer.errno:
            raise AgentError(f"fork: {os.strerror(answer.errno)}")
        return agent

    def close(self) -> None:
        """End them all."""
        for agent in self.places:
            if agent.alive:
                agent.end(kill=True)
        self._process.kill()
        self._process.wait()
