# SPDX-License-Identifier: MIT
"""A script's picture by the kernel: real processes run it, and the page tables are looked at."""

import ctypes
import errno
import json
import mmap as _mmap
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ptshare.abi import MADV_POPULATE_READ
from ptshare.explain import kernel
from ptshare.explain.picture import Picture
from ptshare.explain.script import Fork, MakeFile, Map, Plain, Script
from ptshare.syscalls import (
    MAP_FIXED_NOREPLACE,
    MAP_SHARED,
    SHARED_PT,
    libc,
    madvise,
    mmap,
    mprotect,
    munmap,
    size_t,
)

__all__ = ["LiveError", "run"]

_ANSWER_BYTES = 4096
_SECONDS = 120


class LiveError(Exception):
    """The script's processes could not do what they had to."""


def run(script: Script) -> tuple[Picture, list[str]]:
    """As :func:`ptshare.explain.model.run`. An access that gets a signal is made by a system call here, and
    answered EFAULT.

    :raises LiveError: a process does not answer
    :raises ptshare.explain.kernel.KernelFileError: the kernel's file cannot be had
    """
    with _crew(script) as crew:
        results = [crew.step(step) for step in script.steps]
        return crew.picture(), results


class _Crew:
    def __init__(self, names: Sequence[str]) -> None:
        # Made before any process is, so that each child finds its own when it is forked.
        self.channels = {name: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for name in names}
        self.pids: dict[str, int] = {}
        self.pidfds: dict[str, int] = {}
        self.files: dict[str, int] = {}

    def step(self, step: MakeFile | Map | Fork | Plain) -> str:
        if isinstance(step, MakeFile):
            fd = self.files[step.name] = os.memfd_create(f"explain-{step.name}")
            try:
                os.ftruncate(fd, step.size)
            except OSError as error:
                return errno.errorcode[error.errno or 0]
            return ""
        if isinstance(step, Fork):
            self._started(step.process, self._ask(step.parent, {"call": "fork", "child": step.process}))
            return ""
        if step.process not in self.pids:
            self._start(step.process)
        values: dict[str, Any] = step._asdict()
        if isinstance(step, Map):
            values = {**values, "call": "mmap", "path": f"/proc/{os.getpid()}/fd/{self.files[step.file]}"}
        if values["call"] == "exit":
            self._end(step.process)
            return ""
        return str(self._ask(step.process, values))

    def _start(self, name: str) -> None:
        pid = os.fork()
        if pid == 0:
            _be(name, self.channels)
        self._started(name, pid)

    def _started(self, name: str, pid: object) -> None:
        assert isinstance(pid, int)
        self.pids[name] = pid
        self.pidfds[name] = os.pidfd_open(pid)

    def _ask(self, name: str, values: dict[str, Any]) -> object:
        ours = self.channels[name][0]
        ours.settimeout(_SECONDS)
        try:
            ours.send(json.dumps(values).encode())
            answer = ours.recv(_ANSWER_BYTES)
        except OSError as error:
            raise LiveError(f"process {name} does not answer: {error}") from None
        if not answer:
            raise LiveError(f"process {name} has ended")
        return json.loads(answer)

    def _end(self, name: str) -> None:
        pidfd, pid = self.pidfds.pop(name), self.pids.pop(name)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        # It can be read when the process has given its memory back.
        select.select([pidfd], [], [], _SECONDS)
        os.close(pidfd)
        with suppress(ChildProcessError):  # another's child, and nobody waits for those
            os.waitpid(pid, 0)

    def picture(self) -> Picture:
        """What the kernel says, in the script's names."""
        found = kernel.read().of(self.pids.values())
        names = {pid: name for name, pid in self.pids.items()}
        for process in found.processes:
            process.name = names[process.pid]
        order = list(self.pids)
        found.processes.sort(key=lambda process: order.index(process.name))
        inodes = {os.fstat(fd).st_ino: name for name, fd in self.files.items()}
        for domain in found.domains:
            inode = int(domain.file.split()[1])
            domain.file = inodes.get(inode, domain.file)
        return found

    def close(self) -> None:
        """End all processes; nothing stays."""
        for name in list(self.pids):
            self._end(name)
        for ours, theirs in self.channels.values():
            ours.close()
            theirs.close()
        for fd in self.files.values():
            os.close(fd)


@contextmanager
def _crew(script: Script) -> Iterator[_Crew]:
    steps = [step for step in script.steps if not isinstance(step, MakeFile)]
    crew = _Crew(list(dict.fromkeys(step.process for step in steps)))
    try:
        yield crew
    finally:
        crew.close()


def _be(name: str, channels: dict[str, tuple[socket.socket, socket.socket]]) -> None:
    """Be a process of the script, for ever."""
    try:
        # Nobody waits for its children, and it ends with who asks it.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for ours, _ in channels.values():
            ours.close()
        while request := channels[name][1].recv(_ANSWER_BYTES):
            values = json.loads(request)
            if values["call"] == "fork":
                answer: object = os.fork()
                if answer == 0:
                    name = values["child"]
                    continue
            else:
                answer = _answer(values)
            channels[name][1].send(json.dumps(answer).encode())
    finally:
        os._exit(1)


def _answer(values: dict[str, Any]) -> str:
    try:
        _call(values)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def _call(values: dict[str, Any]) -> None:
    call, address, length = values["call"], values["address"], values["length"]
    if call == "mmap":
        fd = os.open(values["path"], os.O_RDONLY if values["readonly"] else os.O_RDWR)
        try:
            # MAP_SHARED_VALIDATE takes no MAP_FIXED_NOREPLACE: it is not in LEGACY_MAP_MASK.
            flags = MAP_FIXED_NOREPLACE | (MAP_SHARED if values["ordinary"] else SHARED_PT)
            mmap(length, values["prot"], flags, fd, values["offset"], address)
        finally:
            os.close(fd)
    elif call == "mprotect":
        mprotect(address, length, values["prot"])
    elif call == "munmap":
        munmap(address, length)
    elif call == "dontneed":
        madvise(address, length, _mmap.MADV_DONTNEED)
    elif call == "read" and length:
        madvise(address, length, MADV_POPULATE_READ)
    else:
        _access(address, write=call == "write")


def _access(address: int, write: bool) -> None:
    """Read or write a byte as a system call does, which answers EFAULT where an instruction gets a signal."""
    reader, writer = os.pipe()
    try:
        if write:
            os.write(writer, b"\1")
        function, fd = (libc.read, reader) if write else (libc.write, writer)
        if function(fd, size_t(address), size_t(1)) != 1:
            raise OSError(ctypes.get_errno(), "access")
    finally:
        os.close(reader)
        os.close(writer)
