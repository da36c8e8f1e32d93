# SPDX-License-Identifier: MIT
"""All ways to write through a mapping: by the process that has it, by the kernel on its behalf, by others.

Each is a function of the :class:`Target`. It returns what the caller gets to see, which must not depend on
where and when it runs, so that a guest and an ordinary mapping can be compared.
"""

import _thread
import ctypes
import os
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

import calls
import raw
import uring
from calls import GRANULE, MADV_POPULATE_WRITE, MAP_FIXED, MREMAP_FIXED, MREMAP_MAYMOVE, PAGE, RW, W

NEW = b"\xa5" * PAGE

#: In the last page of the file: an rseq(2) area of no processor that runs no sequence; a futex that is free.
AREA, LOCK = GRANULE - PAGE, GRANULE - 8
LAST_PAGE = b"\xff" * 8 + bytes(PAGE - 8)

_PEEKDATA, _POKEDATA, _TRACEME, _ATTACH, _DETACH = 2, 5, 0, 16, 17
_FUTEX_WAKE_OP, _FUTEX_LOCK_PI = 5, 6
_CLONE_PARENT_SETTID, _CLONE_CHILD_SETTID = 0x00100000, 0x01000000
_MADV_DONTNEED, _MADV_REMOVE = 4, 9
_SPLICE_F_GIFT = 8
_ARCH_GET_FS = 0x1003


@dataclass(frozen=True)
class Target:
    """A mapping of the whole of a file that is a granule long."""

    at: int
    #: What it was mapped from, and how.
    fd: int
    prot: int
    flags: int
    #: A page of :data:`NEW`, on a file system on a disk, open with O_DIRECT.
    source: int


Attempt = Callable[[Target], object]


def _then_store(target: Target, first: object, at: int | None = None) -> object:
    """What came of a step, and whether a store is possible after it."""
    return first, calls.poke(target.at if at is None else at, NEW[0])


# By the process


def store(target: Target) -> object:
    ctypes.memset(target.at, NEW[0], 8)
    return "stored"


def read_into(target: Target) -> object:
    return calls.poke(target.at, NEW[0])


def receive_into(target: Target) -> object:
    here, there = socket.socketpair()
    with here, there:
        here.send(NEW)
        return raw.outcome(there.recvmsg_into, [raw.memory(target.at, PAGE)])


def vmsplice_into(target: Target) -> object:
    reader, writer = os.pipe()
    try:
        os.write(writer, NEW)
        return raw.outcome(raw.syscall, raw.VMSPLICE, reader, raw.Vector(target.at, PAGE), 1, 0)
    finally:
        os.close(reader)
        os.close(writer)


def write_behind_a_gift(target: Target) -> object:
    """The page goes into a pipe; what is written to the pipe next must not go into the page."""
    reader, writer = os.pipe()
    try:
        raw.syscall(raw.VMSPLICE, writer, raw.Vector(target.at, 8), 1, _SPLICE_F_GIFT)
        os.write(writer, NEW[:8])
        return os.read(reader, 16).hex()
    finally:
        os.close(reader)
        os.close(writer)


def direct_io_into(target: Target) -> object:
    return raw.outcome(os.preadv, target.source, [raw.memory(target.at, PAGE)], 0)


def uring_read_into(target: Target) -> object:
    with uring.Ring() as ring:
        return raw.outcome(ring.do, uring.READ, target.source, target.at, PAGE)


def uring_fixed_buffer(target: Target) -> object:
    with uring.Ring() as ring:
        first = raw.outcome(ring.register, target.at, PAGE)
        return first, raw.outcome(ring.do, uring.READ_FIXED, target.source, target.at, PAGE)


def uring_buffer_ring(target: Target) -> object:
    with uring.Ring() as ring:
        return raw.outcome(ring.register_buffer_ring, target.at)


def uring_rings(target: Target) -> object:
    return raw.outcome(uring.rings_at, target.at)


def own_mem(target: Target) -> object:
    return write_mem(os.getpid(), target.at)


def own_gup(target: Target) -> object:
    return write_gup(os.getpid(), target.at)


def futex_wake_op(target: Target) -> object:
    word = ctypes.c_uint32()
    set_42 = 42 << 12
    arguments = (ctypes.addressof(word), _FUTEX_WAKE_OP, 1, 1, target.at, set_42)
    return raw.outcome(raw.syscall, raw.FUTEX, *arguments)


def futex_lock_pi(target: Target) -> object:
    return raw.outcome(raw.syscall, raw.FUTEX, target.at + LOCK, _FUTEX_LOCK_PI, 0, None)


def thread_id_cleared(target: Target) -> object:
    """At the end of a thread the kernel writes 0 where set_tid_address(2) said."""

    def end() -> None:
        raw.syscall(raw.SET_TID_ADDRESS, target.at)
        raw.syscall(raw.EXIT_THREAD, 0)

    # No thread of threading's: the interpreter would wait for its end.
    _thread.start_new_thread(end, ())
    while len(os.listdir("/proc/self/task")) > 1:
        pass
    return "ended"


def thread_id_set(target: Target) -> object:
    flags = _CLONE_PARENT_SETTID | _CLONE_CHILD_SETTID | signal.SIGCHLD
    pid = raw.syscall(raw.CLONE, flags, 0, target.at, target.at, 0)
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def restartable_sequence(target: Target) -> object:
    """The kernel writes the processor's number into the area that rseq(2) registers."""
    libc = ctypes.CDLL(None)
    thread = ctypes.c_ulong()
    raw.syscall(raw.ARCH_PRCTL, _ARCH_GET_FS, ctypes.addressof(thread))
    mine = thread.value + ctypes.c_ssize_t.in_dll(libc, "__rseq_offset").value
    signature = 0x53053053
    raw.syscall(raw.RSEQ, mine, 32, 1, signature)
    raw.syscall(raw.RSEQ, target.at + AREA, 32, 0, signature)
    os.sched_yield()
    return "goes on"


def signal_stack(target: Target) -> object:
    """The kernel writes a frame to the stack for signal handlers."""
    handled: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
    raw.syscall(raw.SIGALTSTACK, ctypes.create_string_buffer(struct.pack("QQQ", target.at, 0, GRANULE)), None)
    os.kill(os.getpid(), signal.SIGUSR1)
    return handled == [signal.SIGUSR1]


def reopen(target: Target) -> object:
    found = []
    for way in (
        f"/proc/self/fd/{target.fd}",
        f"/proc/self/map_files/{target.at:x}-{target.at + GRANULE:x}",
    ):
        opened = raw.outcome(os.open, way, os.O_RDWR)
        if isinstance(opened, int):
            os.close(opened)
            opened = "opened"
        found.append(opened)
    return found


# By changing the mapping


def mprotect(target: Target) -> object:
    return _then_store(target, raw.outcome(calls.mprotect, target.at, GRANULE, RW))


def mprotect_write_only(target: Target) -> object:
    return _then_store(target, raw.outcome(calls.mprotect, target.at, GRANULE, W))


def pkey_mprotect(target: Target) -> object:
    return _then_store(target, raw.outcome(calls.pkey_mprotect, target.at, GRANULE, RW, -1))


def map_over(target: Target) -> object:
    flags = target.flags | MAP_FIXED
    first = raw.outcome(calls.mmap, GRANULE, RW, flags, target.fd, 0, target.at)
    return _then_store(target, first == target.at or first)


def populate_for_writing(target: Target) -> object:
    return _then_store(target, raw.outcome(calls.madvise, target.at, GRANULE, MADV_POPULATE_WRITE))


def drop_and_store(target: Target) -> object:
    return _then_store(target, raw.outcome(calls.madvise, target.at, GRANULE, _MADV_DONTNEED))


def punch(target: Target) -> object:
    return raw.outcome(calls.madvise, target.at, GRANULE, _MADV_REMOVE)


def move(target: Target) -> object:
    room = calls.free_area(GRANULE)
    moved = raw.outcome(calls.mremap, target.at, GRANULE, GRANULE, MREMAP_MAYMOVE | MREMAP_FIXED, room)
    assert moved == room
    return raw.outcome(calls.mprotect, room, GRANULE, RW), _then_store(target, "moved", room)


def duplicate(target: Target) -> object:
    other = calls.mremap(target.at, 0, GRANULE, MREMAP_MAYMOVE)
    return raw.outcome(calls.mprotect, other, GRANULE, RW), _then_store(target, "duplicated", other)


def child(target: Target) -> object:
    pid = os.fork()
    if pid == 0:
        error = calls.error_of(calls.mprotect, target.at, GRANULE, RW)
        os._exit(2 * bool(error) + calls.poke(target.at, NEW[0]))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def take_over(target: Target) -> object:
    """An ordinary mapping with all its pages present is replaced in place."""
    calls.mmap(GRANULE, target.prot, calls.MAP_SHARED | MAP_FIXED, target.fd, 0, target.at)
    calls.touch(target.at, GRANULE)
    again = raw.outcome(calls.mmap, GRANULE, target.prot, target.flags | MAP_FIXED, target.fd, 0, target.at)
    assert again == target.at
    return _then_store(target, "taken over")


def give_back(target: Target) -> object:
    """The other way round: an ordinary mapping takes its place."""
    calls.mmap(GRANULE, target.prot, calls.MAP_SHARED | MAP_FIXED, target.fd, 0, target.at)
    return _then_store(target, raw.outcome(calls.mprotect, target.at, GRANULE, RW))


# By others, who know the process and the address


def write_mem(pid: int, at: int) -> object:
    fd = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    try:
        return raw.outcome(os.pwrite, fd, NEW[:8], at)
    finally:
        os.close(fd)


def read_mem(pid: int, at: int) -> object:
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return raw.outcome(os.pread, fd, 8, at)
    finally:
        os.close(fd)


def write_gup(pid: int, at: int) -> object:
    return raw.outcome(calls.vm_writev, pid, at, NEW[:8])


def read_gup(pid: int, at: int) -> object:
    return raw.outcome(calls.vm_readv, pid, at, 8)


def trace(pid: int, at: int) -> object:
    """PTRACE_POKEDATA, and what PTRACE_PEEKDATA reads before it."""
    word = ctypes.c_ulong()
    raw.syscall(raw.PTRACE, _ATTACH, pid, 0, 0)
    os.waitpid(pid, 0)
    read = raw.outcome(raw.syscall, raw.PTRACE, _PEEKDATA, pid, at, ctypes.addressof(word))
    wrote = raw.outcome(raw.syscall, raw.PTRACE, _POKEDATA, pid, at, struct.unpack("<q", NEW[:8])[0])
    raw.syscall(raw.PTRACE, _DETACH, pid, 0, 0)
    return read, word.value, wrote


#: What the process that has the mapping can try.
OWN: tuple[Attempt, ...] = (
    store,
    read_into,
    receive_into,
    vmsplice_into,
    write_behind_a_gift,
    direct_io_into,
    uring_read_into,
    uring_fixed_buffer,
    uring_buffer_ring,
    uring_rings,
    own_mem,
    own_gup,
    futex_wake_op,
    futex_lock_pi,
    thread_id_cleared,
    thread_id_set,
    restartable_sequence,
    signal_stack,
    reopen,
    mprotect,
    mprotect_write_only,
    pkey_mprotect,
    map_over,
    populate_for_writing,
    drop_and_store,
    punch,
    move,
    duplicate,
    child,
    take_over,
    give_back,
)

#: What another process can try, given the number of the one that has it, and the address.
OTHERS: tuple[Callable[[int, int], object], ...] = (write_mem, read_mem, write_gup, read_gup, trace)

#: Of these nothing is to be seen in the file even if they are allowed.
SILENT = {"write_behind_a_gift", "uring_buffer_ring", "reopen", "read_mem", "read_gup"}
#: These pin pages for as long as the process likes.
LONG = {"uring_fixed_buffer", "uring_buffer_ring", "uring_rings"}
