# SPDX-License-Identifier: MIT
"""What a process denies itself, and how it ends: prctl(2), mseal(2), protection keys, process_mrelease(2)."""

import ctypes
import os
import signal

import calls
import pagebits
import pytest
import raw
from agents import Agents
from calls import GRANULE, MAP_FIXED, MAP_SHARED, PAGE, RW, SHARED_PT, R, X
from onlookers import SIZE, Onlookers

from held import sharing

PR_SET_MDWE = 65


@pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "guest"])
def test_memory_that_was_writable_is_not_made_executable(flags: int) -> None:
    """PR_SET_MDWE, with which a process denies that to itself."""
    with calls.memfd(GRANULE) as fd, calls.memfd(GRANULE) as code, Onlookers(1) as them:
        them.ask(0, "prctl", PR_SET_MDWE, 1)
        assert them.error(0, "mmap", GRANULE, RW | X, flags, fd) == "EACCES"
        written = them.do(0, "mmap", GRANULE, RW, flags, fd)
        executed = them.do(0, "mmap", GRANULE, R | X, flags, code)

        def errors(at: int, *prots: int) -> list[str]:
            return [them.error(0, "mprotect", at, GRANULE, prot) for prot in prots]

        assert errors(written, R | X, RW | X, R, R | X, X) == ["EACCES", "EACCES", "", "EACCES", "EACCES"]
        assert errors(executed, R | X, RW | X, RW, R | X) == ["", "EACCES", "", "EACCES"]


def test_others_make_nothing_executable_for_who_has_denied_it_to_himself() -> None:
    """Who has is in a class with its like: a protection is for all of a class."""
    with calls.memfd(SIZE) as fd, Onlookers(4) as them:
        for n in (0, 1):
            them.ask(n, "prctl", PR_SET_MDWE, 1 | n << 1)  # PR_MDWE_REFUSE_EXEC_GAIN, PR_MDWE_NO_INHERIT
        before = sharing()
        at = [them.do(n, "mmap", SIZE, RW, SHARED_PT, fd) for n in range(4)]
        assert sharing().domains == before.domains + 2
        for n in range(4):
            them.do(n, "touch", at[n], SIZE)
        assert sharing().tables == before.tables + 2 * (SIZE // GRANULE + 2)

        def access(n: int) -> list[str]:
            return [region.access for region in calls.regions(at[n], at[n] + SIZE, them.pid(n))]

        them.do(2, "mprotect", at[2], SIZE, RW | X)
        assert [access(n) for n in range(4)] == [["rw-s"]] * 2 + [["rwxs"]] * 2
        # A child that did not inherit it is still of the class.
        for prot in (RW | X, R | X):
            assert them.ask(1, "childs_error", "mprotect", at[1], SIZE, prot) == "EACCES"
        them.do(0, "mprotect", at[0], SIZE, R)
        assert [access(n) for n in range(4)] == [["r--s"]] * 2 + [["rwxs"]] * 2


@pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "guest"])
def test_a_sealed_mapping_stays(flags: int) -> None:
    """mseal(2): the process cannot change or unmap it any more."""
    with calls.memfd(SIZE) as fd, Onlookers(1) as them:
        at = them.do(0, "mmap", SIZE, RW, flags, fd)
        room = them.do(0, "free_area", SIZE)
        if flags == SHARED_PT:
            assert them.ask(0, "seal", at + PAGE, PAGE) == "EINVAL"
        assert them.ask(0, "seal", at, SIZE) == 0
        move = calls.MREMAP_MAYMOVE | calls.MREMAP_FIXED
        for call in (
            ("mprotect", at, SIZE, R),
            ("munmap", at, SIZE),
            ("munmap", at + GRANULE, GRANULE),
            ("mremap", at, SIZE, SIZE, move, room),
            ("mremap", at, SIZE, GRANULE, 0),
            ("mmap", SIZE, RW, flags | MAP_FIXED, fd, 0, at),
        ):
            assert them.error(0, *call) == "EPERM", call
        assert them.do(0, "poke", at, 1)


PTRACE_CONT, PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 7, 0x4206, 0x40


def test_memory_of_a_dying_process_is_released() -> None:
    """process_mrelease(2) drops links of a process that was killed and is not gone yet, where it takes away
    ordinary pages: if it maps the file for reading. Others take no fault for it.
    """
    with calls.memfd(SIZE) as fd, Agents(1) as agents:
        ways = ((RW, SHARED_PT), (RW, MAP_SHARED), (R, SHARED_PT), (R, MAP_SHARED))
        vias = {RW: fd, R: os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)}
        area = calls.free_area(len(ways) * SIZE)
        others = agents.do(0, "mmap", SIZE, RW, SHARED_PT, fd)
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            for number, (prot, flags) in enumerate(ways):
                at = calls.mmap(SIZE, prot, flags | MAP_FIXED, vias[prot], 0, area + number * SIZE)
                calls.touch(at, SIZE)
            os.write(tell, b"mapped")
            signal.pause()
            os._exit(1)
        assert os.read(told, 6) == b"mapped"
        readers = calls.mmap(SIZE, R, SHARED_PT, vias[R])
        calls.touch(readers, SIZE)
        agents.do(0, "touch", others, SIZE)
        # A tracer holds it where it ends, still with its memory.
        raw.syscall(raw.PTRACE, PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT)
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSTOPPED(os.waitpid(pid, 0)[1])

        def present() -> list[bool]:
            return [calls.present(area + number * SIZE + 7 * PAGE, pid) for number in range(len(ways))]

        assert present() == [True] * 4
        pidfd = os.pidfd_open(pid)
        raw.syscall(raw.PROCESS_MRELEASE, pidfd, 0)
        assert present() == [True, True, False, False]
        assert calls.faults(readers, SIZE) == agents.faults(0, others, SIZE) == 0
        raw.syscall(raw.PTRACE, PTRACE_CONT, pid, 0, 0)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        calls.munmap(readers, SIZE)
        for end in (pidfd, told, tell, vias[R]):
            os.close(end)


def test_a_protection_key_ends_with_the_mapping_that_had_it() -> None:
    """A guest in the place of a mapping with a key has key 0, and is not denied what that key is."""
    libc = ctypes.CDLL(None)
    key = calls.pkey_alloc()
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as at:
        calls.mmap(GRANULE, RW, MAP_SHARED | MAP_FIXED, fd, 0, at)
        calls.pkey_mprotect(at, GRANULE, RW, key)
        calls.store(at, GRANULE)
        libc.pkey_set(key, 1)  # PKEY_DISABLE_ACCESS
        assert calls.peek(at) is None
        calls.mmap(GRANULE, RW, SHARED_PT | MAP_FIXED, fd, 0, at)
        assert calls.peek(at) == 1
        assert pagebits.smaps(at)["ProtectionKey"] == "0"
    libc.pkey_set(key, 0)
    calls.pkey_free(key)
