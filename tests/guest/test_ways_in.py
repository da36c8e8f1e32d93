# SPDX-License-Identifier: MIT
"""Every way to a process's memory but a plain load or store gives what it gives with an ordinary mapping of
the same descriptor: no more to who opened the file for reading, no less to who opened it for writing.
"""

import ctypes
import os
import resource
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import attempts
import calls
import pagebits
import pytest
import raw
import uring
from agents import Agents
from attempts import LOCK, NEW, Target
from calls import GRANULE, MAP_SHARED, NONE, PAGE, RW, SHARED_PT, R
from paging import drain
from settings import setting, write

from held import settles

NOBODY = 65534
MADV_DONTNEED, MADV_DONTDUMP, MADV_PAGEOUT = 4, 16, 21
FUTEX_WAIT, FUTEX_WAKE = 0, 1
FUTEX_WAITERS, FUTEX_OWNER_DIED = 1 << 31, 1 << 30

#: No two pages next to each other are alike, and the last has what attempts.LOCK and attempts.AREA need.
OLD = b"".join(bytes([page % 127 + 1]) * PAGE for page in range(GRANULE // PAGE - 1)) + attempts.LAST_PAGE


def fork(work: Callable[[int], None], answer: int, user: int) -> int:
    """Fork, and do some work as a user; the child's number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for number in (signal.SIGSEGV, signal.SIGBUS):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if user:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            raw.syscall(raw.PRCTL, 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, so that its files in /proc are its own
        work(answer)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def answers(answer: int, value: object) -> None:
    os.write(answer, str(value).encode())


def in_child(work: Callable[[int], None], user: int = 0) -> str:
    """Fork and do some work; what it wrote to the descriptor it is given, and the signal that ended it."""
    reader, writer = os.pipe()
    pid = fork(work, writer, user)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as answer:
            text = answer.read().decode()
    finally:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code <= 0
    return f"{text} {signal.Signals(-code).name}" if code else text


class Scene:
    """A file that one process wants to write to, and another writes to all the time: this one."""

    def __init__(self, path: Path, source: int, user: int, on_disk: bool) -> None:
        path.write_bytes(OLD)
        path.chmod(0o644)
        self.reading, self.writing = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
        self._source, self.user, self.on_disk = source, user, on_disk
        self._guest = calls.mmap(GRANULE, RW, SHARED_PT, self.writing)
        self._ordinary = calls.mmap(GRANULE, RW, MAP_SHARED, self.writing)

    def close(self) -> None:
        calls.munmap(self._guest, GRANULE)
        calls.munmap(self._ordinary, GRANULE)
        os.close(self.reading)
        os.close(self.writing)

    def content(self) -> bytes:
        return os.pread(self.writing, GRANULE, 0)

    def changed(self) -> list[int]:
        """The first and the last page of the file that are not what they were."""
        content = self.content()
        starts = range(0, GRANULE, PAGE)
        pages = [at // PAGE for at in starts if content[at : at + PAGE] != OLD[at : at + PAGE]]
        return pages[:1] + pages[-1:]

    def write(self) -> None:
        """Write the file through both mappings, so that both have writable PTEs of every page."""
        for at in (self._guest, self._ordinary):
            raw.memory(at, GRANULE)[:] = OLD

    def protect(self, prot: int) -> None:
        calls.mprotect(self._guest, GRANULE, prot)

    def target(self, writable: bool, flags: int) -> Target:
        fd, prot = (self.writing, RW) if writable else (self.reading, R)
        return Target(0, fd, prot, flags, self._source)

    def own(self, attempt: attempts.Attempt, target: Target) -> str:
        """What a process gets to see that maps the file like this and makes the attempt."""

        def work(answer: int) -> None:
            at = calls.mmap(GRANULE, target.prot, target.flags, target.fd)
            calls.touch(at, GRANULE)
            answers(answer, attempt(replace(target, at=at)))

        return in_child(work, self.user)

    def other(
        self,
        attempt: Callable[[int, int], object],
        target: Target,
        by: int,
        prepare: Callable[[int], None] = lambda at: None,
    ) -> str:
        """What a process of user ``by`` gets to see that makes the attempt on one that maps the file like
        this.
        """
        reader, writer = os.pipe()

        def wait(_: int) -> None:
            at = calls.mmap(GRANULE, target.prot, target.flags, target.fd)
            calls.touch(at, GRANULE)
            prepare(at)
            os.write(writer, at.to_bytes(8, "little"))
            signal.pause()

        pid = fork(wait, -1, self.user)
        os.close(writer)
        try:
            at = int.from_bytes(os.read(reader, 8), "little")
            return in_child(lambda answer: answers(answer, attempt(pid, at)), by)
        finally:
            os.close(reader)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.fixture
def source(ext4: Path) -> Iterator[int]:
    """A page on a disk, open for direct I/O."""
    path = ext4 / "source"
    path.write_bytes(NEW)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture(params=[("tmpfs", NOBODY), ("ext4", 0)], ids=["tmpfs-nobody", "ext4-root"])
def scene(request: pytest.FixtureRequest, source: int) -> Iterator[Scene]:
    """A file in memory that an ordinary user maps, and one on a disk that root does."""
    place, user = request.param
    scene = Scene(request.getfixturevalue(place) / "file", source, user, place == "ext4")
    try:
        yield scene
    finally:
        scene.close()


def test_who_opened_for_reading_cannot_write(scene: Scene) -> None:
    """Each attempt: refused as with an ordinary mapping, whatever the writer's process does meanwhile."""
    ordinary, guest = (scene.target(False, flags) for flags in (MAP_SHARED, SHARED_PT))
    for attempt in attempts.OWN:
        scene.write()
        expected = scene.own(attempt, ordinary)
        assert scene.own(attempt, guest) == expected, attempt.__name__
        # The other class's protection is no business of this one's.
        scene.protect(R)
        assert scene.own(attempt, guest) == expected, attempt.__name__
        scene.protect(RW)
        assert scene.content() == OLD, attempt.__name__


def test_nobody_can_write_for_who_opened_for_reading(scene: Scene) -> None:
    """Not root either, for whom ptrace and /proc/PID/mem go past protections elsewhere."""
    ordinary, guest = (scene.target(False, flags) for flags in (MAP_SHARED, SHARED_PT))
    for by in {0, scene.user}:
        for attempt in attempts.OTHERS:
            scene.write()
            expected = scene.other(attempt, ordinary, by)
            assert scene.other(attempt, guest, by) == expected, attempt.__name__
            assert scene.content() == OLD, attempt.__name__


def test_who_opened_for_writing_can_write(scene: Scene) -> None:
    """The same attempts, in the same words: they do to the file what they do by an ordinary mapping."""
    targets = [scene.target(True, flags) for flags in (MAP_SHARED, SHARED_PT)]
    seen: dict[str, list[tuple[str, list[int]]]] = {}
    for target in targets:
        for attempt in attempts.OWN:
            scene.write()
            result = scene.own(attempt, target)
            seen.setdefault(attempt.__name__, []).append((result, scene.changed()))
        for other in attempts.OTHERS:
            scene.write()
            result = scene.other(other, target, scene.user)
            seen.setdefault(other.__name__, []).append((result, scene.changed()))
    assert {name: guest for name, (_, guest) in seen.items()} == {
        name: one for name, (one, _) in seen.items()
    }
    # A file on a disk cannot be pinned for long.
    silent = attempts.SILENT | (attempts.LONG if scene.on_disk else set())
    assert {name for name, (_, (_, changed)) in seen.items() if not changed} == silent


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("prot", [R, NONE])
def test_others_meet_the_protection_in_force(scene: Scene, prot: int, linked: bool) -> None:
    """What a debugger may do to a shared mapping with this protection, it may do to a guest, be the pages
    present in its tables or not: read it even with PROT_NONE, and never write it.
    """

    def prepare(at: int) -> None:
        calls.mprotect(at, GRANULE, prot)
        if not linked:
            calls.madvise(at, GRANULE, MADV_DONTNEED)

    seen: list[dict[str, str]] = []
    for flags in (MAP_SHARED, SHARED_PT):
        target = scene.target(True, flags)
        found = {}
        for attempt in attempts.OTHERS:
            scene.write()
            found[attempt.__name__] = scene.other(attempt, target, 0, prepare)
            scene.protect(RW)
            assert scene.content() == OLD, attempt.__name__
        seen.append(found)
    ordinary, guest = seen
    assert guest == ordinary


@contextmanager
def waiting(at: int, value: int) -> Iterator[int]:
    """A process that waits for a futex. At the end it must have been woken."""

    def wait(_: int) -> None:
        raw.syscall(raw.FUTEX, at, FUTEX_WAIT, value, None)

    pid = fork(wait, -1, 0)
    try:
        call = f"{raw.FUTEX} {at:#x} "
        assert settles(lambda: Path(f"/proc/{pid}/syscall").read_text().startswith(call), True, 60)
        yield pid
        assert settles(
            lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, False, 60
        )
    finally:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    assert status == 0


def test_futexes_wake_across_mappings() -> None:
    """Whoever waits is found by the file: at other addresses, in the other class, in an ordinary mapping."""
    with calls.memfd(GRANULE) as fd:
        reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        ways = [(fd, RW, SHARED_PT), (fd, RW, SHARED_PT), (reading, R, SHARED_PT), (fd, RW, MAP_SHARED)]
        mappings = [calls.mmap(GRANULE, prot, flags, via) + LOCK for via, prot, flags in ways]
        for sleeper in mappings:
            for waker in mappings:
                with waiting(sleeper, 0):
                    assert raw.syscall(raw.FUTEX, waker, FUTEX_WAKE, 1) == 1
        for at in mappings:
            calls.munmap(at - LOCK, GRANULE)
        os.close(reading)


class _RobustList(ctypes.Structure):
    """struct robust_list_head, and an entry for one lock behind it."""

    _fields_ = (
        ("first", ctypes.c_void_p),
        ("offset", ctypes.c_long),
        ("pending", ctypes.c_void_p),
        ("entry", ctypes.c_void_p),
    )


@pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "guest"])
@pytest.mark.parametrize("prot", [RW, R])
def test_the_owner_of_a_robust_futex_dies(prot: int, flags: int) -> None:
    """Its death is noted in the lock and one who waits is woken; not if it could only read the file."""
    with calls.memfd(GRANULE) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as mine:
        reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)

        def own(answer: int) -> None:
            at = calls.mmap(GRANULE, prot, flags, fd if prot == RW else reading)
            held = _RobustList()
            first = ctypes.addressof(held) + _RobustList.entry.offset
            # The lock is where the entry is, plus the offset; the list ends where it begins.
            held.first, held.entry, held.offset = first, ctypes.addressof(held), at - first
            raw.syscall(raw.SET_ROBUST_LIST, held, 24)
            answers(answer, "holds it")
            signal.pause()

        reader, writer = os.pipe()
        owner = fork(own, writer, 0)
        assert os.read(reader, 8) == b"holds it"
        held = owner | FUTEX_WAITERS
        os.pwrite(fd, held.to_bytes(4, "little"), 0)
        with waiting(mine, held):
            os.kill(owner, signal.SIGKILL)
            os.waitpid(owner, 0)
            word = int.from_bytes(os.pread(fd, 4, 0), "little")
            assert word == (FUTEX_WAITERS | FUTEX_OWNER_DIED if prot == RW else held)
            if prot == R:
                assert raw.syscall(raw.FUTEX, mine, FUTEX_WAKE, 1) == 1
        for end in (reading, reader, writer):
            os.close(end)


def test_direct_io_into_a_guest_and_from_it(ext4: Path, source: int) -> None:
    """All others see what was read, it is dirty and gets to the disk; what is written is what was stored."""
    path = ext4 / "file"
    path.write_bytes(OLD)
    fd = os.open(path, os.O_RDWR)
    with (
        Agents(2) as agents,
        calls.mapped(GRANULE, RW, SHARED_PT, fd) as at,
        calls.mapped(GRANULE, R, MAP_SHARED, fd) as ordinary,
    ):
        there = agents.all_do("mmap", GRANULE, RW, SHARED_PT, fd)
        agents.do(0, "store", there[0], GRANULE, 7)
        os.fsync(fd)
        assert calls.peek(ordinary) == 7
        frame = pagebits.frame(ordinary)
        assert not pagebits.flagged([frame], pagebits.DIRTY)
        assert os.preadv(source, [raw.memory(at, PAGE)], 0) == PAGE
        assert pagebits.flagged([frame], pagebits.DIRTY)
        assert [agents.do(n, "peek", there[n] + 9) for n in range(2)] == [NEW[9]] * 2
        assert calls.peek(ordinary + 9) == NEW[9]
        # And out: two pages, of which another guest has stored the second.
        agents.do(1, "poke", there[1] + PAGE, 9)
        out = os.open(ext4 / "out", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        assert os.pwritev(out, [raw.memory(at, 2 * PAGE)], 0) == 2 * PAGE
        os.close(out)
        assert (ext4 / "out").read_bytes() == NEW + b"\x09" + OLD[PAGE + 1 : 2 * PAGE]
    os.fsync(fd)
    write(Path("/proc/sys/vm/drop_caches"), "1")
    assert os.pread(fd, 2 * PAGE, 0) == NEW + b"\x09" + OLD[PAGE + 1 : 2 * PAGE]
    os.close(fd)


def test_pinned_pages_stay_what_they_are(source: int) -> None:
    """Pages that io_uring has pinned for long: another guest has them unmapped, and the kernel is asked to
    move them. What is read into them then is seen by all.
    """
    with calls.memfd(GRANULE) as fd, Agents(1) as agents, uring.Ring() as ring:
        [there] = agents.all_do("mmap", GRANULE, RW, SHARED_PT, fd)
        agents.do(0, "store", there, GRANULE, 3)
        with calls.mapped(GRANULE, RW, SHARED_PT, fd) as at:
            ring.register(at, 4 * PAGE)
            before = pagebits.entries(at, 4 * PAGE)
            drain()
            agents.do(0, "madvise", there, GRANULE, MADV_PAGEOUT)
            assert not any(calls.present(at + page * PAGE) for page in range(5))
            calls.touch(at, 5 * PAGE)
            unpinned = pagebits.frame(at + 4 * PAGE)
            # No policy, MPOL_MF_MOVE_ALL: every page may move, and this one does.
            raw.syscall(raw.MBIND, at, GRANULE, 0, None, 0, 4)
            calls.touch(at, 5 * PAGE)
            assert pagebits.frame(at + 4 * PAGE) != unpinned
            assert ring.do(uring.READ_FIXED, source, at + PAGE, PAGE) == PAGE
            assert agents.do(0, "peek", there + PAGE) == NEW[0]
            agents.do(0, "poke", there + 2 * PAGE, 4)
            out = os.memfd_create("out")
            assert ring.do(uring.WRITE_FIXED, out, at, 4 * PAGE) == 4 * PAGE
            assert [os.pread(out, 1, page * PAGE)[0] for page in range(4)] == [3, NEW[0], 4, 3]
            os.close(out)
            calls.touch(at, 4 * PAGE)
            assert pagebits.entries(at, 4 * PAGE) == before


def dumped(core: bytes, start: int, end: int) -> dict[int, tuple[int, bytes]]:
    """What a core file says of the pages in a range: their rights, and their data if it has it."""
    pages = {}
    (table,) = struct.unpack_from("<Q", core, 32)
    (count,) = struct.unpack_from("<H", core, 56)
    for n in range(count):
        kind, rights, place, addr, _, stored, size, _ = struct.unpack_from("<IIQQQQQQ", core, table + n * 56)
        if kind == 1 and start <= addr < end:  # PT_LOAD
            data = core[place : place + stored]
            for at in range(0, size, PAGE):
                pages[addr + at] = (rights, data[at : at + PAGE])
    return pages


@pytest.fixture
def core_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "core"
    with setting(Path("/proc/sys/kernel/core_pattern"), str(path)):
        yield path


@pytest.mark.parametrize("kept", [1 << 1, 1 << 3], ids=["memfd", "named"])
def test_core_dump(core_file: Path, tmpfs: Path, kept: int) -> None:
    """A core file has of a guest what it has of an ordinary mapping, as coredump_filter has it, but for what
    MADV_DONTDUMP leaves out; also what the process could not read itself.
    """
    size, area = 2 * GRANULE, calls.free_area(12 * GRANULE)
    path = tmpfs / "file"
    path.write_bytes(OLD + OLD)

    def crash(flags: int, memory: int, named: int, _: int) -> None:
        at = area
        for fd in (memory, named):
            writable, readable, nothing = (
                calls.mmap(size, prot, flags | calls.MAP_FIXED, fd, 0, at + n * size)
                for n, prot in enumerate((RW, R, NONE))
            )
            calls.store(writable, size)
            calls.madvise(writable + GRANULE, GRANULE, MADV_DONTDUMP)
            assert calls.peek(readable) == 1
            assert calls.peek(nothing) is None
            at += 3 * size
        Path("/proc/self/coredump_filter").write_text(str(kept))
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGQUIT)

    cores = []
    with calls.memfd(size) as memory, path.open("r+b") as named:
        os.pwrite(memory, OLD + OLD, 0)
        for flags in (MAP_SHARED, SHARED_PT):
            pid = fork(partial(crash, flags, memory, named.fileno()), -1, 0)
            assert os.WCOREDUMP(os.waitpid(pid, 0)[1])
            cores.append(dumped(core_file.read_bytes(), area, area + 12 * GRANULE))
            core_file.unlink()
    ordinary, guest = cores
    assert len(ordinary) == 12 * GRANULE // PAGE
    # Of one of the two files: half of the first mapping, all of the two others.
    assert sum(bool(data) for _, data in ordinary.values()) == (1 + 2 + 2) * GRANULE // PAGE
    for part in (0, 1):
        differ = {(at - area) // GRANULE for at in guest if guest[at][part] != ordinary[at][part]}
        assert differ == set(), ("rights", "data")[part]
