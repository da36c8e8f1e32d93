# SPDX-License-Identifier: MIT
"""A program in which the kernel and the contract differ, with all that it needs: Python, and root.

Run it on a kernel with MAP_SHARED_PT. Each step says what it brought and, where that is not what the contract
says, what it should have brought. Exit status 1: there was such a step.

A negative number is an errno. Accesses go through read(2) and write(2) on a pipe, so that one that is
refused, be it by SIGSEGV or SIGBUS, is EFAULT. What executes is a child, which tells by how it ends.
"""

import ctypes
import errno
import fcntl
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any

PAGE, GRANULE, GIB = 4096, 2 << 20, 1 << 30
BASE, AREA = 1 << 40, 8 * GIB
SHARED_PT, LOCKED, NOREPLACE = 1, 2, 4
PLACES = 5
SYSFS = "/sys/kernel/mm/ptshare"
ADVICE = {"NORMAL": 0, "RANDOM": 1, "SEQUENTIAL": 2, "WILLNEED": 3, "DONTNEED": 4, "REMOVE": 9}
ADVICE |= {"DONTFORK": 10, "DOFORK": 11, "HUGEPAGE": 14, "NOHUGEPAGE": 15, "DONTDUMP": 16, "DODUMP": 17}
ADVICE |= {"COLD": 20, "PAGEOUT": 21, "POPULATE_READ": 22, "POPULATE_WRITE": 23, "COLLAPSE": 25}

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def syscall(number: int, *args: int) -> int:
    """What a system call returns, or minus its errno."""
    result: int = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(value) for value in args))
    return -ctypes.get_errno() if result == -1 else result


def faults() -> int:
    """Of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


class Calls:
    """What a process does when it is told to."""

    taken = 0

    def mmap(
        self, address: int, length: int, prot: int, file: int, mode: str, offset: int, flags: int
    ) -> int:
        fd = os.open(f"/proc/self/fd/{file}", os.O_RDWR if mode == "rw" else os.O_RDONLY)
        kind = 0x1 | 0x100000 if flags & NOREPLACE else 0x3 | 0x10
        kind |= 0x200000 if flags & SHARED_PT else 0
        kind |= 0x2000 if flags & LOCKED else 0
        result = syscall(9, address, length, prot, kind, fd, offset)
        os.close(fd)
        return result

    def mmap_anywhere(self, length: int, file: int, offset: int) -> int:
        fd = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
        address = syscall(9, 0, length, 1, 0x3 | 0x200000, fd, offset)
        os.close(fd)
        if address > 0:
            syscall(11, address, length)
        return (address - offset) % (GIB if length >= GIB else GRANULE) if address > 0 else address

    def munmap(self, address: int, length: int) -> int:
        return syscall(11, address, length)

    def mprotect(self, address: int, length: int, prot: int) -> int:
        return syscall(10, address, length, prot)

    def pkey_mprotect(self, address: int, length: int, prot: int, key: int) -> int:
        return syscall(329, address, length, prot, key)

    def mremap(self, address: int, length: int, new_length: int, where: int) -> int:
        return syscall(25, address, length, new_length, 3 if where else 0, where)

    def madvise(self, address: int, length: int, advice: str) -> int:
        return syscall(28, address, length, ADVICE[advice])

    def mlock(self, address: int, length: int) -> int:
        return syscall(149, address, length)

    def munlock(self, address: int, length: int) -> int:
        return syscall(150, address, length)

    def msync(self, address: int, length: int) -> int:
        return syscall(26, address, length, 4)

    def mseal(self, address: int, length: int) -> int:
        return syscall(462, address, length, 0)

    def load(self, address: int) -> int:
        reader, writer = os.pipe()
        result = self._access(1, writer, address)
        value = os.read(reader, 1)[0] if result == 1 else result
        os.close(reader)
        os.close(writer)
        return value

    def store(self, address: int, value: int) -> int:
        reader, writer = os.pipe()
        os.write(writer, bytes([value]))
        result = self._access(0, reader, address)
        os.close(reader)
        os.close(writer)
        return min(result, 0)

    def _access(self, number: int, fd: int, address: int) -> int:
        # The first call, getpid, takes the faults of Python's own memory.
        for call in (39, number):
            before = faults()
            result = syscall(call, fd, address, 1)
            self.taken = faults() - before
        return result

    def faults(self) -> int:
        """Of the last load or store."""
        return self.taken

    def fetch(self, address: int) -> int:
        """Nothing but an instruction or zeros is there, so that only what cannot be executed is told."""
        child = os.fork()
        if child == 0:
            ctypes.CFUNCTYPE(None)(address)()
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        refused = ended == -signal.SIGBUS or (ended == -signal.SIGSEGV and not self._executable(address))
        return -errno.EFAULT if refused else 0

    @staticmethod
    def _executable(address: int) -> bool:
        with open("/proc/self/maps") as lines:
            for line in lines:
                low, high = (int(word, 16) for word in line.split()[0].split("-"))
                if low <= address < high:
                    return line.split()[1][2] == "x"
        return False

    def set_mdwe(self) -> int:
        return syscall(157, 65, 1, 0, 0, 0)


def serve(place: int) -> None:
    """Answer at a place until told to end."""
    calls, awake = Calls(), 0
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        ends[place].setblocking(awake == 0)
        try:
            call, args = eval(ends[place].recv(4096))  # our own parent's words
        except BlockingIOError:
            continue
        awake = max(0, awake - 1)
        answer: Any = 0
        if call == "stay_awake":
            (awake,) = args
        elif call == "fork":
            answer = os.fork()
            if answer == 0:
                place, answer = args[0], os.getpid()
        elif call == "exec":
            os.execv(sys.executable, [sys.executable, __file__, *map(str, (place, *numbers))])
        elif call == "exit":
            os._exit(0)
        else:
            answer = getattr(calls, call)(*args)
        if call != "fork" or answer != os.getpid():
            ends[place].send(repr(answer).encode())


class Process:
    """A process, seen from outside."""

    def __init__(self, place: int) -> None:
        self.place, self.pid = place, 0

    def __getattr__(self, call: str) -> Any:
        return lambda *args: self._ask(call, *args)

    def _ask(self, call: str, *args: Any) -> Any:
        ours[self.place].send(repr((call, args)).encode())
        if call == "exec":
            # It answers what comes next.
            return 0
        if call == "exit":
            self.wait()
            return 0
        answer = eval(ours[self.place].recv(4096))
        if call == "fork":
            everyone[args[0]].pid = answer
            return 0
        return answer

    def wait(self) -> None:
        """Until it has let go of its memory."""
        fd = os.pidfd_open(self.pid)
        select.select([fd], [], [])
        os.close(fd)

    def kill(self) -> int:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()
        return 0

    def vm_read(self, address: int) -> int:
        byte = ctypes.create_string_buffer(1)
        result = self._vm(310, ctypes.addressof(byte), address)
        return byte.raw[0] if result == 1 else result

    def vm_write(self, address: int, value: int) -> int:
        byte = ctypes.create_string_buffer(bytes([value]), 1)
        return min(self._vm(311, ctypes.addressof(byte), address), 0)

    def _vm(self, number: int, here: int, there: int) -> int:
        vectors = (ctypes.c_size_t * 4)(here, 1, there, 1)
        at = ctypes.addressof(vectors)
        return syscall(number, self.pid, at, 1, at + 16, 1, 0)

    def mem_write(self, address: int, value: int) -> int:
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            try:
                os.pwrite(memory.fileno(), bytes([value]), address)
            except OSError as error:
                return -(error.errno or 0)
        return 0

    def maps(self) -> list[list[int]]:
        """Start, end, protection, offset and file; lines that continue each other are one."""
        found: list[list[int]] = []
        names = {(os.fstat(fd).st_dev, os.fstat(fd).st_ino): fd for fd in files}
        with open(f"/proc/{self.pid}/maps") as lines:
            for line in lines:
                area, access, offset, device, inode = line.split()[:5]
                low, high = (int(word, 16) for word in area.split("-"))
                if not BASE <= low < BASE + AREA:
                    continue
                prot = sum(1 << at for at in range(3) if access[at] != "-")
                key = os.makedev(*(int(word, 16) for word in device.split(":"))), int(inode)
                new = [low, high, prot, int(offset, 16), names.get(key, -1)]
                last = found[-1] if found else [0] * 5
                continues = [last[1], last[2], last[3] + last[1] - last[0], last[4]] == [low, *new[2:]]
                if continues:
                    last[1] = high
                else:
                    found.append(new)
        return found

    def present(self) -> list[list[int]]:
        """Start and end of what the page tables have."""
        found: list[list[int]] = []
        with open(f"/proc/{self.pid}/pagemap", "rb", buffering=0) as pagemap:
            for start, end, *_ in self.maps():
                entries = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)[7::8]
                for at, entry in enumerate(entries):
                    address = start + at * PAGE
                    if not entry & 0x80:
                        continue
                    if found and found[-1][1] == address:
                        found[-1][1] += PAGE
                    else:
                        found.append([address, address + PAGE])
        return found

    def status(self, name: str) -> int:
        """A line of /proc/PID/status, bytes."""
        with open(f"/proc/{self.pid}/status") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":"))


def file(kind: str, size: int) -> int:
    """A new file: its descriptor."""
    if kind == "memfd":
        fd = os.memfd_create("file", os.MFD_ALLOW_SEALING)
    else:
        directory = tempfile.mkdtemp()
        image = os.path.join(tempfile.mkdtemp(), "image")
        if kind == "ext4":
            with open(image, "wb") as made:
                made.truncate(4 << 30)
            subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
        how = ["-o", "loop", image] if kind == "ext4" else ["-t", "tmpfs", "tmpfs"]
        if kind == "noexec":
            how += ["-o", "noexec"]
        # Of this mount namespace, which ends with the processes.
        subprocess.run(["mount", *how, directory], check=True)
        if kind == "ext4":
            # A disk that is new has next to no share of what may be dirty, and is written to at once. Per
            # cent; each file has a disk of its own, and those of all must be less than 100.
            device = os.stat(directory).st_dev
            with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/min_ratio", "w") as ratio:
                ratio.write("30")
        fd = os.open(os.path.join(directory, "file"), os.O_RDWR | os.O_CREAT, 0o777)
    os.ftruncate(fd, size)
    os.set_inheritable(fd, True)
    files.append(fd)
    return fd


def start(count: int) -> None:
    """So many processes, which have all files open."""
    for process in everyone[:count]:
        process.pid = os.fork()
        if process.pid == 0:
            serve(process.place)


def truncate(fd: int, size: int) -> int:
    os.ftruncate(fd, size)
    return 0


def punch(fd: int, offset: int, length: int) -> int:
    return syscall(285, fd, 3, offset, length)


def fsync(fd: int) -> int:
    os.fsync(fd)
    return 0


def seal(fd: int) -> int:
    return fcntl.fcntl(fd, 1033, 0x10)


def enable(value: int) -> int:
    with open(f"{SYSFS}/enabled", "w") as switch:
        switch.write(str(value))
    return 0


# What the kernel does when it likes: not while this runs.
SETTINGS = {
    "/sys/kernel/debug/fault_around_bytes": "4096",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled": "never",
    "/proc/sys/vm/dirty_writeback_centisecs": "0",
}


def settings(wanted: dict[str, str]) -> dict[str, str]:
    """Have settings in force, those that this kernel has: what was in force."""
    found = {}
    for path in filter(os.path.exists, wanted):
        with open(path) as setting:
            text = setting.read().strip()
        chosen = re.search(r"\[(\S+)\]", text)
        found[path] = chosen[1] if chosen else text
        with open(path, "w") as setting:
            setting.write(wanted[path])
    return found


files: list[int] = []
differs = False


def step(text: str, found: Any, expected: Any) -> None:
    """Say what a step brought."""
    global differs
    print(f"{text}: {found}" + ("" if found == expected else f"    <-- the contract says {expected}"))
    differs |= found != expected


def sysfs(what: str) -> int:
    """What the kernel holds: domains, guests, tables."""
    with open(f"{SYSFS}/{what}") as value:
        return int(value.read())


def end() -> None:
    """End all processes that there are, and say how it went."""
    for process in everyone:
        try:
            if process.pid:
                process.kill()
        except ProcessLookupError:
            pass  # it has ended by itself, or with the one that it was forked from
    settings(before)
    print("The kernel does something else than the contract says." if differs else "No difference.")
    sys.exit(differs)


if len(sys.argv) > 1:
    numbers = [int(word) for word in sys.argv[2:]]
    ends = [socket.socket(fileno=number) for number in numbers]
    serve(int(sys.argv[1]))
before = settings(SETTINGS)
libc.unshare(0x20000)
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(PLACES)]
ours, ends = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
numbers = [end.fileno() for end in ends]
for number in numbers:
    os.set_inheritable(number, True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
everyone = [Process(place) for place in range(PLACES)]
