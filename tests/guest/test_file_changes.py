# SPDX-License-Identifier: MIT
"""What changes a file changes it for all guests at once: size, holes, name, seals, and how it is mounted."""

import ctypes
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import calls
import files
import pytest
from agents import Agent, Agents
from calls import GRANULE, MAP_SHARED, PAGE, RW, SHARED_PT, R, W, X
from files import opened
from frames import frames

from held import sharing
from ptshare.counters import SharingCounters

SIZE = 2 * GRANULE
PAGES = SIZE // PAGE
MADV_REMOVE = 9


@contextmanager
def guests(
    count: int, fd: int, size: int = SIZE, prot: int = RW
) -> Iterator[tuple[Agents, list[int], list[int]]]:
    """Processes that map a file with shared tables: they, their ids, and where each has it."""
    with Agents(count) as agents:
        yield agents, agents.call("pid"), agents.all_do("mmap", size, prot, SHARED_PT, fd)


def warm(agents: Agents, at: list[int], size: int, value: int) -> None:
    """All pages are written and present, in all processes."""
    agents.do(0, "store", at[0], size, value)
    for n in agents.members:
        agents.do(n, "touch", at[n], size)


def signals(agents: Agents, at: list[int], offset: int, action: str = "touch") -> set[int]:
    """How accesses to one page end, in a child of each process: 0, or a signal."""
    return {-agents.call("fork_and", action, a + offset, PAGE, members=[n])[0] for n, a in enumerate(at)}


# Sizes


def test_shrunk_and_grown_again(directory: Path) -> None:
    """Pages cut off are out of all processes' tables when the call returns, and come back as zeros."""
    path = directory / "file"
    path.write_bytes(bytes(SIZE))
    with opened(path) as fd, guests(3, fd) as (agents, pids, at):
        warm(agents, at, SIZE, 5)
        before = frames(pids[0], at[0], SIZE)
        assert None not in before
        tables = sharing().tables

        # In the middle of a page, which stays; as it stays in an ordinary mapping.
        cut = GRANULE + 3 * PAGE + 100
        kept = cut // PAGE + 1
        os.ftruncate(fd, cut)
        for pid, start in zip(pids, at, strict=True):
            assert frames(pid, start, SIZE) == before[:kept] + [None] * (PAGES - kept)
        assert signals(agents, at, kept * PAGE) == {signal.SIGBUS}
        assert signals(agents, at, SIZE - PAGE, "store") == {signal.SIGBUS}
        assert signals(agents, at, (kept - 1) * PAGE) == {0}

        os.ftruncate(fd, SIZE)
        # One of them has a page, so all have.
        for n in range(3):
            offset = (kept + 100 * (n + 1)) * PAGE
            assert agents.do(n, "peek", at[n] + offset) == 0
            found = {frames(pid, start + offset, PAGE)[0] for pid, start in zip(pids, at, strict=True)}
            assert len(found) == 1
            assert found != {None}
        for n in range(3):
            agents.do(n, "touch", at[n], SIZE)
            assert [agents.do(n, "peek", at[n] + offset) for offset in (cut, kept * PAGE, SIZE - 1)] == [
                0
            ] * 3
            assert agents.do(n, "peek", at[n] + (kept - 1) * PAGE) == 5
        assert not any(os.pread(fd, SIZE, cut))
        assert sharing().tables == tables


def test_extended(directory: Path) -> None:
    """What lies behind the old end can be accessed by all, whoever extended the file and how."""
    path = directory / "file"
    path.write_bytes(b"x" * (PAGE + 5))
    with opened(path) as fd, guests(2, fd) as (agents, pids, at):
        assert signals(agents, at, 2 * PAGE) == {signal.SIGBUS}
        assert signals(agents, at, GRANULE) == {signal.SIGBUS}

        os.pwrite(fd, b"y", 200 * PAGE)
        assert signals(agents, at, 200 * PAGE) == {0}
        assert signals(agents, at, 201 * PAGE) == {signal.SIGBUS}
        assert [agents.do(n, "peek", at[n] + 200 * PAGE) for n in (0, 1)] == [ord("y")] * 2
        assert [agents.do(n, "peek", at[n] + PAGE + 5) for n in (0, 1)] == [0] * 2

        # By a whole granule, which has no table yet.
        os.ftruncate(fd, SIZE - PAGE)
        agents.do(1, "poke", at[1] + GRANULE, 7)
        assert agents.do(0, "peek", at[0] + GRANULE) == 7
        agents.do(0, "peek", at[0] + GRANULE + 300 * PAGE)
        spot = [
            frames(pid, start + GRANULE + 300 * PAGE, PAGE)[0] for pid, start in zip(pids, at, strict=True)
        ]
        assert spot[0] is not None
        assert spot[0] == spot[1]

        assert signals(agents, at, SIZE - PAGE, "store") == {signal.SIGBUS}
        os.posix_fallocate(fd, 0, SIZE)
        assert signals(agents, at, SIZE - PAGE, "store") == {0}
        assert os.pread(fd, 1, SIZE - PAGE) == b"\1"


# Holes


@pytest.mark.parametrize("way", ["fallocate", "madvise"])
def test_a_hole(directory: Path, way: str) -> None:
    """Punched by the file or by one guest: zeros for all, no page left in any table, its memory free."""
    path = directory / "file"
    path.write_bytes(bytes(SIZE))
    first, count = 480, 64  # in two granules
    with opened(path) as fd, guests(3, fd) as (agents, pids, at):
        warm(agents, at, SIZE, 5)
        os.fsync(fd)
        blocks = os.stat(path).st_blocks
        before = frames(pids[0], at[0], SIZE)
        assert None not in before

        if way == "fallocate":
            files.fallocate(fd, files.PUNCH_HOLE | files.KEEP_SIZE, first * PAGE, count * PAGE)
        else:
            agents.do(2, "madvise", at[2] + first * PAGE, count * PAGE, MADV_REMOVE)
        left = before[:first] + [None] * count + before[first + count :]
        assert [frames(pid, start, SIZE) for pid, start in zip(pids, at, strict=True)] == [left] * 3
        assert blocks - os.stat(path).st_blocks == count * PAGE // 512

        for n, page in enumerate((first, first + 30, first + count - 1)):
            assert agents.do(n, "peek", at[n] + page * PAGE) == 0
            found = {frames(pid, start + page * PAGE, PAGE)[0] for pid, start in zip(pids, at, strict=True)}
            assert len(found) == 1
            assert None not in found  # another frame or, by chance, the one that went free
        edges = (first - 1, first, first + count - 1, first + count)
        assert [[agents.do(n, "peek", at[n] + page * PAGE) for page in edges] for n in range(3)] == [
            [5, 0, 0, 5]
        ] * 3
        # It is the same page to write to.
        agents.do(1, "poke", at[1] + first * PAGE, 8)
        assert [agents.do(n, "peek", at[n] + first * PAGE) for n in range(3)] == [8] * 3


def test_a_reader_punches_no_hole(tmpfs: Path) -> None:
    path = tmpfs / "file"
    path.write_bytes(b"x" * GRANULE)
    with opened(path, os.O_RDONLY) as reader, opened(path) as writer:
        for flags in (MAP_SHARED, SHARED_PT):
            with calls.mapped(GRANULE, R, flags, reader) as at:
                assert calls.error_of(calls.madvise, at, PAGE, MADV_REMOVE) == "EACCES"
            # The descriptor counts, not what the mapping may do just now.
            with calls.mapped(GRANULE, RW, flags, writer) as at:
                calls.mprotect(at, GRANULE, R)
                calls.madvise(at, PAGE, MADV_REMOVE)
                assert calls.peek(at) == 0
                assert calls.peek(at + PAGE) == ord("x")


def test_ranges_moved_within_the_file(ext4: Path) -> None:
    """fallocate(2) takes pages out, puts some in, zeroes some: all guests see the file as it has become."""
    path = ext4 / "file"
    path.write_bytes(b"".join(bytes([page % 251 + 1]) * PAGE for page in range(PAGES)))
    with opened(path) as fd, guests(2, fd) as (agents, pids, at):
        for n in (0, 1):
            agents.do(n, "touch", at[n], SIZE)
        for mode, first, count in (
            (files.COLLAPSE_RANGE, 100, 30),
            (files.INSERT_RANGE, 500, 30),
            (files.ZERO_RANGE, 700, 30),
        ):
            assert None not in frames(pids[1], at[1], SIZE)
            files.fallocate(fd, mode, first * PAGE, count * PAGE)
            for pid, start in zip(pids, at, strict=True):
                assert frames(pid, start, SIZE)[first : first + count] == [None] * count
            for n in (0, 1):
                spots = range(n, PAGES - 30, 41)
                seen = bytes(agents.do(n, "peek", at[n] + page * PAGE) for page in spots)
                assert seen == b"".join(os.pread(fd, 1, page * PAGE) for page in spots)
            os.ftruncate(fd, SIZE)
            for n in (0, 1):
                agents.do(n, "touch", at[n], SIZE)


# Names


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_unlinked_while_mapped(kind: str, request: pytest.FixtureRequest, idle: SharingCounters) -> None:
    """Guests keep the file, and share it on; its space is free when the last one is gone."""
    directory: Path = request.getfixturevalue(kind)
    path = directory / "file"
    os.sync()
    free = os.statvfs(directory).f_bfree
    path.write_bytes(bytes(SIZE))
    with Agents(3) as agents:
        fds = agents.call("open", str(path), os.O_RDWR)
        at = [agents.do(n, "mmap", SIZE, RW, SHARED_PT, fds[n]) for n in (0, 1)]
        path.unlink()
        # Another file of that name is another file.
        path.write_bytes(b"x" * GRANULE)
        for n in (0, 1):
            agents.do(n, "store", at[n], SIZE, n + 1)
        late = agents.do(2, "mmap", SIZE, RW, SHARED_PT, fds[2])
        assert sharing().domains == idle.domains + 1
        assert agents.faults(2, late, SIZE) == calls.link_faults(late, SIZE)
        assert agents.do(2, "peek", late) == 2
        with opened(path) as fd, calls.mapped(GRANULE, RW, SHARED_PT, fd) as other:
            assert sharing().domains == idle.domains + 2
            assert calls.peek(other) == ord("x")
        path.unlink()
        os.sync()
        for n in range(3):
            assert free - os.statvfs(directory).f_bfree >= SIZE // os.statvfs(directory).f_bsize
            agents.kill([n])
        assert os.statvfs(directory).f_bfree == free


# Seals


def test_the_size_is_sealed() -> None:
    with calls.memfd(SIZE, os.MFD_ALLOW_SEALING) as fd, guests(2, fd, 2 * SIZE) as (agents, pids, at):
        warm(agents, at, SIZE, 5)
        before = frames(pids[0], at[0], SIZE)
        files.seal(fd, files.SEAL_SHRINK | files.SEAL_GROW)
        for size in (GRANULE, 2 * SIZE):
            assert calls.error_of(os.ftruncate, fd, size) == "EPERM"
        assert [frames(pid, start, SIZE) for pid, start in zip(pids, at, strict=True)] == [before] * 2
        assert signals(agents, at, SIZE) == {signal.SIGBUS}
        # It is not the content that is sealed.
        agents.do(1, "madvise", at[1], PAGE, MADV_REMOVE)
        assert agents.do(0, "peek", at[0]) == 0
        assert agents.do(0, "poke", at[0], 1)


@pytest.mark.parametrize("prot", [RW, R])
def test_no_seal_against_writing_while_a_guest_may_write(prot: int) -> None:
    """Nor while one could come to write, as with an ordinary mapping; but when the last has gone."""
    with calls.memfd(SIZE, os.MFD_ALLOW_SEALING) as fd:
        for flags in (MAP_SHARED, SHARED_PT):
            with Agents(2) as agents:
                for n in (0, 1):
                    agents.do(n, "touch", agents.do(n, "mmap", SIZE, prot, flags, fd), SIZE)
                for n in (0, 1):
                    assert calls.error_of(files.seal, fd, files.SEAL_WRITE) == "EBUSY"
                    agents.kill([n])
        files.seal(fd, files.SEAL_WRITE)
        for flags in (MAP_SHARED, SHARED_PT):
            assert calls.error_of(calls.mmap, SIZE, RW, flags, fd) == "EPERM"
        with guests(2, fd, prot=R) as (agents, pids, at):
            agents.do(0, "touch", at[0], SIZE)
            assert agents.faults(1, at[1], SIZE) == calls.link_faults(at[1], SIZE)
            assert frames(pids[0], at[0], SIZE) == frames(pids[1], at[1], SIZE)
            for n in (0, 1):
                assert agents.error(n, "mprotect", at[n], SIZE, RW) == "EACCES"
                assert not agents.do(n, "poke", at[n], 1)
                assert agents.error(n, "madvise", at[n], PAGE, MADV_REMOVE) == "EACCES"


def test_a_seal_against_writing_in_future() -> None:
    """Who could write goes on, with those of its class; who comes later has other tables, and cannot."""
    with calls.memfd(SIZE, os.MFD_ALLOW_SEALING) as fd, Agents(4) as agents:
        writer = agents.do(0, "mmap", SIZE, RW, SHARED_PT, fd)
        # It asked to read, and may come to write: a class of its own, older than the seal.
        older = agents.do(1, "mmap", SIZE, R, SHARED_PT, fd)
        agents.do(0, "store", writer, SIZE, 5)
        agents.do(1, "touch", older, SIZE)
        domains = sharing().domains
        files.seal(fd, files.SEAL_FUTURE_WRITE)

        for n in (2, 3):
            for flags in (MAP_SHARED, SHARED_PT):
                assert agents.error(n, "mmap", SIZE, RW, flags, fd) == "EPERM"
        later = [agents.do(n, "mmap", SIZE, R, SHARED_PT, fd) for n in (2, 3)]
        assert sharing().domains == domains + 1
        agents.do(2, "touch", later[0], SIZE)
        assert agents.faults(3, later[1], SIZE) == calls.link_faults(later[1], SIZE)
        for n, start in zip((2, 3), later, strict=True):
            assert agents.error(n, "mprotect", start, SIZE, RW) == "EACCES"

        # The same frames by tables that allow it and tables that do not.
        pids = agents.call("pid")
        assert frames(pids[0], writer, SIZE) == frames(pids[3], later[1], SIZE)
        for round_ in (6, 7):
            agents.do(0, "store", writer, SIZE, round_)
            assert agents.call("fork_and", "store", writer, PAGE, round_ + 10, members=[0]) == [0]
            for n, start in zip((2, 3), later, strict=True):
                assert agents.do(n, "peek", start) == round_ + 10
                assert agents.do(n, "peek", start + PAGE) == round_
                assert not agents.do(n, "poke", start, 1)
                assert not agents.do(n, "write_by_gup", start)
                assert agents.call("fork_and", "store", start, PAGE, members=[n]) == [-signal.SIGSEGV]
            # As an ordinary mapping that is older than the seal.
            agents.do(1, "mprotect", older, SIZE, RW)
            assert agents.do(1, "poke", older + 2 * PAGE, round_)
            agents.do(1, "mprotect", older, SIZE, R)
        assert agents.error(2, "madvise", later[0], PAGE, MADV_REMOVE) == "EACCES"
        assert {agents.do(n, "peek", start + 2 * PAGE) for n, start in zip((2, 3), later, strict=True)} == {7}


# Mounts


class _Worker(Agent):
    def map_file(self, path: str, prot: int, flags: int) -> int:
        """Where a file is mapped, by a descriptor that does not outlive this."""
        with opened(Path(path), os.O_RDWR if prot & W else os.O_RDONLY) as fd:
            return calls.mmap(SIZE, prot, flags, fd)

    def run_code(self, addr: int) -> int:
        """A child calls the code at ``addr``; what it returns, negative for a signal."""
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os._exit(ctypes.CFUNCTYPE(ctypes.c_int)(addr)())
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class _Workers(Agents):
    def __init__(self, count: int) -> None:
        super(Agents, self).__init__(count, _Worker)

    def map_file(self, member: int, path: Path, prot: int, flags: int = SHARED_PT) -> int:
        return int(self.call("map_file", str(path), prot, flags, members=[member])[0])

    def runs(self, member: int, addr: int) -> int:
        return int(self.call("run_code", addr, members=[member])[0])


@pytest.mark.parametrize("founder", [0, 1], ids=["exec first", "noexec first"])
def test_a_noexec_mount(tmpfs: Path, tmp_path: Path, idle: SharingCounters, founder: int) -> None:
    """Neither mount's rights leak to the guests of the other, whoever came first and whoever left."""
    code = b"\xb8\x2a\x00\x00\x00\xc3"  # mov eax, 42; ret
    path = tmpfs / "file"
    path.write_bytes(code * (SIZE // 6) + bytes(SIZE % 6))
    with files.bound(tmpfs, tmp_path / "noexec", files.MS_NOEXEC) as noexec:
        places = [path, noexec / "file", path, noexec / "file"]
        with _Workers(4) as agents:
            fds = [
                agents.call("open", str(place), os.O_RDWR, members=[n])[0] for n, place in enumerate(places)
            ]
            order = range(4) if founder == 0 else range(3, -1, -1)
            at = dict.fromkeys(range(4), 0)
            for n in order:
                at[n] = agents.do(n, "mmap", SIZE, RW, SHARED_PT, fds[n])
            assert sharing().domains == idle.domains + 2
            for n in range(4):
                agents.do(n, "touch", at[n], SIZE)
            for n in (1, 3):
                for flags in (MAP_SHARED, SHARED_PT):
                    assert agents.error(n, "mmap", SIZE, R | X, flags, fds[n]) == "EPERM"
                assert agents.error(n, "mprotect", at[n], SIZE, R | X) == "EACCES"
            agents.do(0, "mprotect", at[0], SIZE, R | X)
            assert [agents.runs(n, at[n]) for n in range(4)] == [42, -signal.SIGSEGV, 42, -signal.SIGSEGV]
            # Writing, which the one class gave up for it, is the other's still.
            assert [agents.do(n, "poke", at[n] + GRANULE, 1) for n in range(4)] == [False, True, False, True]
            # The file that a host has open is another guest's now, of the same kind of mount.
            agents.kill([1 - founder, founder])
            assert [agents.runs(n, at[n]) for n in (2, 3)] == [42, -signal.SIGSEGV]
            assert agents.error(3, "mprotect", at[3], SIZE, R | X) == "EACCES"
            agents.do(2, "mprotect", at[2], PAGE, R)
            agents.do(2, "mprotect", at[2], PAGE, R | X)
            assert agents.runs(2, at[2]) == 42


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_remounted_read_only(kind: str, request: pytest.FixtureRequest) -> None:
    """EBUSY while a guest may write, no longer: as with ordinary mappings. Readers do not matter."""
    directory: Path = request.getfixturevalue(kind)
    path = directory / "file"
    path.write_bytes(b"x" * SIZE)
    for flags in (MAP_SHARED, SHARED_PT):
        with _Workers(4) as agents:
            at = [agents.map_file(n, path, R, flags) for n in (0, 1)]
            for n in (2, 3):
                agents.do(n, "store", agents.map_file(n, path, RW, flags), SIZE, 9)
            agents.do(0, "touch", at[0], SIZE)
            for n in (2, 3):
                assert calls.error_of(files.remount, directory, files.MS_RDONLY) == "EBUSY"
                agents.kill([n])
            files.remount(directory, files.MS_RDONLY)
            for n in (0, 1):
                agents.do(n, "touch", at[n], SIZE)
                assert agents.do(n, "peek", at[n] + GRANULE) == 9
                assert not agents.do(n, "poke", at[n], 1)
            assert calls.error_of(os.open, path, os.O_RDWR) == "EROFS"
            pids = agents.call("pid")
            assert frames(pids[0], at[0], SIZE) == frames(pids[1], at[1], SIZE)
        files.remount(directory, 0)
        path.write_bytes(b"x" * SIZE)


def test_a_read_only_mount_of_a_writable_file_system(
    tmpfs: Path, tmp_path: Path, idle: SharingCounters
) -> None:
    """Guests by a read-only mount are of the class of readers, and share with readers by the other."""
    path = tmpfs / "file"
    path.write_bytes(b"x" * SIZE)
    place = tmp_path / "readonly"
    with _Workers(3) as agents:
        with files.bound(tmpfs, place, files.MS_RDONLY):
            assert calls.error_of(os.open, place / "file", os.O_RDWR) == "EROFS"
            readers = [agents.map_file(0, place / "file", R), agents.map_file(1, path, R)]
            assert sharing().domains == idle.domains + 1
            agents.do(0, "touch", readers[0], SIZE)
            assert agents.faults(1, readers[1], SIZE) == calls.link_faults(readers[1], SIZE)
            writer = agents.map_file(2, path, RW)
            assert sharing().domains == idle.domains + 2
            agents.do(2, "store", writer, SIZE, 9)
            for n in (0, 1):
                assert agents.do(n, "peek", readers[n]) == 9
                assert agents.error(n, "mprotect", readers[n], SIZE, RW) == "EACCES"
                assert not agents.do(n, "poke", readers[n], 1)
                assert not agents.do(n, "write_by_gup", readers[n])
            assert calls.error_of(files.umount, place) == "EBUSY"
            agents.kill([0])
        # It is unmounted, though the domain that was founded by way of it goes on.
        assert agents.faults(1, readers[1], SIZE) == 0
        assert agents.do(1, "peek", readers[1] + GRANULE) == 9


# While guests fault

#: Pages on both sides of where two granules meet. Each that is written costs a flush when ext4 cleans it.
FIRST, COUNT = GRANULE // PAGE - 32, 64


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that accesses a file all over and tells what it found: tests/guest/tags.c."""
    program = tmp_path_factory.mktemp("tags") / "tags"
    source = Path(__file__).with_name("tags.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", str(program), str(source)], check=True)
    return program


@contextmanager
def tagging(
    program: Path, numbered: list[tuple[int, int]]
) -> Iterator[list[tuple["subprocess.Popen[str]", int]]]:
    """A process for each (descriptor, tag), and where it has the file."""
    children = [
        subprocess.Popen(
            [str(program), str(fd), str(tag), str(FIRST), str(COUNT), str(seed)],
            pass_fds=[fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, (fd, tag) in enumerate(numbered)
    ]
    try:
        yield [(child, int(told(child))) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()


def told(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def tell(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def stopped(children: list[tuple["subprocess.Popen[str]", int]]) -> list[list[int]]:
    """Accesses, those refused, and foreign words of each."""
    for child, _ in children:
        tell(child)
    return [[int(word) for word in told(child).split()] for child, _ in children]


def test_foreign_words_would_be_noticed(tags: Path) -> None:
    """The program that the next test relies on finds a word of another file, and of another page."""
    with calls.memfd(SIZE) as fd:
        for word in (8 << 32 | 501, 7 << 32 | 500):
            with tagging(tags, [(fd, 7)]) as children:
                os.pwrite(fd, word.to_bytes(8, "little") * (PAGE // 8), 501 * PAGE)
                time.sleep(0.2)
                assert stopped(children)[0][2] > 0


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_truncated_while_guests_fault(
    kind: str, request: pytest.FixtureRequest, tags: Path, idle: SharingCounters
) -> None:
    """Two files are truncated and punched while guests load from them and store into them.

    What one file loses the other soon gets. Nobody finds a word of the other file, or of another page.
    """
    directory: Path = request.getfixturevalue(kind)
    paths = [directory / "one", directory / "two"]
    for path in paths:
        path.write_bytes(bytes(SIZE))
    chance = random.Random(1)
    with opened(paths[0]) as one, opened(paths[1]) as two:
        numbered = [(fd, tag) for _ in range(2) for fd, tag in ((one, 1), (two, 2))]
        with (
            tagging(tags, numbered) as children,
            calls.mapped(SIZE, RW, SHARED_PT, one) as at_one,
            calls.mapped(SIZE, RW, SHARED_PT, two) as at_two,
        ):
            rounds = 0
            deadline = time.monotonic() + 4
            while rounds < 5 or time.monotonic() < deadline:
                for fd, at in ((one, at_one), (two, at_two)):
                    # Whole words: half a word would look foreign.
                    os.ftruncate(fd, FIRST * PAGE + chance.randrange(COUNT * PAGE // 8) * 8)
                    os.ftruncate(fd, SIZE)
                    page = FIRST + chance.randrange(COUNT)
                    files.fallocate(
                        fd, files.PUNCH_HOLE | files.KEEP_SIZE, page * PAGE, chance.randrange(1, 40) * PAGE
                    )
                    page = FIRST + chance.randrange(COUNT)
                    calls.madvise(at + page * PAGE, 16 * PAGE, MADV_REMOVE)
                rounds += 1
            counts = stopped(children)
            print(f"{rounds} rounds; accesses, refused, foreign: {counts}")  # shown if it fails
            assert [foreign for _, _, foreign in counts] == [0] * 4
            assert all(accesses > 1000 and refused > 0 for accesses, refused, _ in counts)
            # Two tables of PTEs for each file, whatever happened to it, and the two levels above them.
            assert sharing().domains == idle.domains + 2
            assert sharing().tables - idle.tables == 2 * (2 + 2)

            for fd in (one, two):
                os.ftruncate(fd, 0)
                os.ftruncate(fd, SIZE)
            for child, _ in children:
                tell(child)
            assert [told(child).strip() for child, _ in children] == ["0"] * 4
