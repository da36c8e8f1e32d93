# SPDX-License-Identifier: MIT
"""Each allocation of each call fails once: the call fails with an error number, or goes on without.

Never half: what it was to change is as it was, the other guests notice nothing, the same call succeeds when
there is memory again, and in the end all is given back.
"""

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import calls
import faultinject
import pytest
from calls import (
    GIB,
    GRANULE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    NONE,
    PAGE,
    RW,
    SHARED_PT,
    R,
)
from faultinject import Attempt, Injector, Points
from pagebits import flagged, frames

from held import settles, sharing
from ptshare import counters

SIZE = 4 * GRANULE

# x86-64
READ, MMAP, MPROTECT, MUNMAP, PWRITE64, MREMAP, MADVISE, CLONE = 0, 9, 10, 11, 18, 25, 28, 56
MLOCK, MUNLOCK, PROCESS_VM_READV, PROCESS_VM_WRITEV = 149, 150, 310, 311

WILLNEED, DONTNEED, REMOVE, DONTFORK, DOFORK, DONTDUMP, COLD, PAGEOUT = 3, 4, 9, 10, 11, 16, 20, 21

#: include/linux/kernel-page-flags.h
MLOCKED = 1 << 33

#: Two addresses far from each other and from all else, so that a process has no table for them at any level.
HERE, THERE = 0x2000_0000_0000, 0x3000_0000_0000

Scene = Callable[[], AbstractContextManager[Attempt]]
Files = Callable[[], AbstractContextManager[int]]


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    with faultinject.injector(tmp_path_factory.mktemp("failnth")) as made:
        yield made


@pytest.fixture
def one_processor() -> Iterator[None]:
    """What a processor is still to mlock when the process has left for another, the kernel can count twice.

    Pages stay locked then that nobody has locked, those of ordinary mappings, too.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def sweep(injector: Injector, request: pytest.FixtureRequest) -> Callable[..., Points]:
    """Sweeps after which the kernel has no mapping, file or table more than before."""

    def run(scene: Scene, fails: bool = True, processes: bool = False) -> Points:
        with scene() as attempt:  # what is made once for all is there afterwards
            outcome = injector.call(*attempt.call)
            assert not outcome.error
            attempt.done(outcome.value)
        before = objects()
        points = injector.sweep(scene)
        print(f"{request.node.name}: {points}")
        assert not fails or points.failed
        if processes:
            # A CPU that has run one keeps its mm until it runs another.
            before["mm_struct"] += os.cpu_count() or 1
        # Fewer: RCU may free by now what was given back long before.
        assert settles(lambda: all(now <= before[name] for name, now in objects().items()), True), (
            f"{before} before, {objects()} after"
        )
        return points

    return run


def objects() -> dict[str, int]:
    """What mappings are made of; mappings and page tables (KiB) but for this process's own; pages locked."""
    counters.fold_per_cpu()
    tables = counters.page_tables_kib() - counters.process_tables().own_kib
    mlocked = re.search(r"^nr_mlock (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    assert mlocked is not None
    found = {**faultinject.kernel_objects(), "tables": tables, "locked pages": int(mlocked[1])}
    # The interpreter makes and ends some of its own; what is mapped where, each test compares.
    found["vm_area_struct"] -= Path("/proc/self/maps").read_text().count("\n")
    return found


def layout(*areas: int, length: int = 2 * SIZE) -> list[tuple[int, int, str, int]]:
    """What is mapped at ``areas``, neighbours that are alike taken together."""
    found: list[tuple[int, int, str, int]] = []
    for area in areas:
        for region in calls.regions(area, area + length):
            if found:
                start, end, access, offset = found[-1]
                if end == region.start and access == region.access and offset + end - start == region.offset:
                    found[-1] = (start, region.end, access, offset)
                    continue
            found.append((region.start, region.end, region.access, region.offset))
    return found


def clear(*areas: int, length: int = 2 * SIZE) -> None:
    for area in areas:
        calls.munmap(area, length)


def held() -> tuple[int, int]:
    now = sharing()
    return now.domains, now.guests


@contextmanager
def file_of(size: int = SIZE) -> Iterator[int]:
    """A file in memory; each granule begins with its number, from 1 on, and the rest of it are holes."""
    with calls.memfd(size) as fd:
        for number in range(min(size // GRANULE, 4)):
            os.pwrite(fd, bytes([number + 1]), number * GRANULE)
        yield fd


@contextmanager
def guests(size: int = SIZE, flags: int = SHARED_PT) -> Iterator[int]:
    """Two guests of one file, at HERE and THERE, with their links; the file."""
    with file_of(size) as fd:
        try:
            for area in (HERE, THERE):
                calls.mmap(size, RW, flags | MAP_FIXED_NOREPLACE, fd, addr=area)
                assert content(area) == [1, 2, 3, 4]
            yield fd
        finally:
            clear(HERE, THERE, length=max(size, 2 * SIZE))


def content(area: int) -> list[int | None]:
    return [calls.peek(area + number * GRANULE) for number in range(4)]


# mmap


@pytest.fixture(params=["memfd", "tmpfs", "ext4", "overlay", "anonymous"])
def file(request: pytest.FixtureRequest) -> Iterator[int]:
    """A file of each kind, 4 granules; -1: none."""
    if request.param == "anonymous":
        yield -1
    elif request.param == "memfd":
        with file_of() as fd:
            yield fd
    else:
        path = request.getfixturevalue(request.param) / "file"
        path.write_bytes(bytes(SIZE))
        fd = os.open(path, os.O_RDWR)
        try:
            yield fd
        finally:
            os.close(fd)


def first_guest(fd: int, flags: int) -> Scene:
    """mmap, of anonymous memory if there is no file."""
    flags |= SHARED_PT | MAP_FIXED_NOREPLACE | (MAP_ANONYMOUS if fd < 0 else 0)
    # That there can be no inode for it is no lack of space, but Linux says so.
    errors = ("ENOMEM", "ENOSPC") if fd < 0 else ("ENOMEM",)

    @contextmanager
    def scene() -> Iterator[Attempt]:
        domains, count = held()

        def done(value: int) -> None:
            assert value == HERE
            assert held() == (domains + 1, count + 1)
            assert calls.poke(HERE, 7)
            assert calls.peek(HERE) == 7

        try:
            call = (MMAP, HERE, 2 * GRANULE, RW, flags, fd, 0)
            yield Attempt(call, lambda: (held(), layout(HERE)), done, errors)
        finally:
            clear(HERE)

    return scene


def test_mmap_of_the_first_guest(sweep: Callable[..., Points], file: int) -> None:
    sweep(first_guest(file, 0))


def test_mmap_that_populates(sweep: Callable[..., Points]) -> None:
    with calls.memfd(GRANULE) as fd:
        points = sweep(first_guest(fd, MAP_POPULATE))
        # It returns the mapping even if the pages could not be had.
        assert points.survived


def test_mmap_of_the_second_guest(sweep: Callable[..., Points], file: int) -> None:
    if file < 0:  # anonymous memory is another's only by a fork
        return
    with calls.mapped(SIZE, RW, SHARED_PT, file) as other:
        assert calls.poke(other, 1)

        @contextmanager
        def scene() -> Iterator[Attempt]:
            domains, count = held()

            def done(value: int) -> None:
                assert held() == (domains, count + 1)
                assert calls.poke(value, 7)
                assert calls.peek(other) == 7

            try:
                flags = SHARED_PT | MAP_FIXED_NOREPLACE
                yield Attempt((MMAP, HERE, SIZE, RW, flags, file, 0), lambda: (held(), layout(HERE)), done)
            finally:
                clear(HERE)

        sweep(scene)


def test_mmap_that_links(sweep: Callable[..., Points]) -> None:
    """A GiB that is in use. Where there is no table for its link, the first access makes one."""
    with file_of(GIB) as fd, calls.mapped(GIB, RW, SHARED_PT, fd) as other:
        assert content(other) == [1, 2, 3, 4]
        idle = held()

        @contextmanager
        def scene() -> Iterator[Attempt]:
            def done(value: int) -> None:
                assert value == HERE
                assert held() == (idle[0], idle[1] + 1)
                assert content(HERE) == [1, 2, 3, 4]
                assert counters.process_tables().shared_kib == 2 * GIB // 1024

            try:
                call = (MMAP, HERE, GIB, RW, SHARED_PT | MAP_FIXED_NOREPLACE, fd, 0)
                yield Attempt(call, lambda: (held(), layout(HERE, length=GIB)), done)
            finally:
                clear(HERE, length=GIB)

        # The table of its own that the link stands in.
        assert sweep(scene).survived


@pytest.mark.parametrize("old", [MAP_SHARED, SHARED_PT], ids=["ordinary", "guest"])
@pytest.mark.parametrize("new", [MAP_SHARED, SHARED_PT], ids=["by-ordinary", "by-guest"])
def test_mmap_over_a_mapping(sweep: Callable[..., Points], old: int, new: int) -> None:
    """Of the same part of the same file: a guest takes over what is present.

    What was there is there still, or nothing is: Linux does not bring back what it has unmapped, ordinary
    or not.
    """

    @contextmanager
    def scene() -> Iterator[Attempt]:
        idle = held()
        with file_of() as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as other:
            assert content(other) == [1, 2, 3, 4]
            try:
                calls.mmap(SIZE, RW, old | MAP_FIXED_NOREPLACE, fd, addr=HERE)
                assert content(HERE) == [1, 2, 3, 4]

                def done(value: int) -> None:
                    assert held() == (idle[0] + 1, idle[1] + 1 + (new == SHARED_PT))
                    assert content(HERE) == content(other) == [1, 2, 3, 4]
                    assert calls.poke(HERE, 9)
                    assert calls.peek(other) == 9

                yield Attempt(
                    (MMAP, HERE, SIZE, RW, new | MAP_FIXED, fd, 0),
                    lambda: (held(), layout(HERE)),
                    done,
                    aborted=((idle[0] + 1, idle[1] + 1), []),
                )
            finally:
                clear(HERE)

    sweep(scene)


# Faults


def words(*values: int) -> "ctypes.Array[ctypes.c_long]":
    return (ctypes.c_long * len(values))(*values)


@dataclass(frozen=True)
class Accesses:
    """Calls that fault at an address and allocate nothing besides.

    :param zero: /dev/zero
    :param sink: a file with a page
    """

    zero: int
    sink: int

    def at(self, address: int) -> dict[str, tuple[tuple[int, ...], int, str, object]]:
        """What it is called: the call, what it returns, its error, and what must live as long as it."""
        local = ctypes.create_string_buffer(8)
        here, there = words(ctypes.addressof(local), 1), words(address, 1)
        vectors = (os.getpid(), ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0)
        alive = (local, here, there)
        return {
            "read": ((PWRITE64, self.sink, address, 1, 0), 1, "EFAULT", None),
            "write": ((READ, self.zero, address, 1), 1, "EFAULT", None),
            "gup-read": ((PROCESS_VM_READV, *vectors), 1, "EFAULT", alive),
            "gup-write": ((PROCESS_VM_WRITEV, *vectors), 1, "EFAULT", alive),
            "populate-read": ((MADVISE, address, PAGE, calls.MADV_POPULATE_READ), 0, "ENOMEM", None),
            "populate-write": ((MADVISE, address, PAGE, calls.MADV_POPULATE_WRITE), 0, "ENOMEM", None),
        }


ACCESSES = ["read", "write", "gup-read", "gup-write", "populate-read", "populate-write"]


@pytest.fixture
def accesses() -> Iterator[Accesses]:
    zero = os.open("/dev/zero", os.O_RDONLY)
    with calls.memfd(PAGE) as sink:
        os.pwrite(sink, b"0", 0)
        yield Accesses(zero, sink)
    os.close(zero)


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("level", ["pmd", "pud"])
def test_a_fault_that_makes_the_tables(
    sweep: Callable[..., Points], accesses: Accesses, access: str, level: str
) -> None:
    """The first in its domain: all tables of the host, the page, and then the links."""
    size = GIB if level == "pud" else SIZE

    @contextmanager
    def scene() -> Iterator[Attempt]:
        with (
            calls.memfd(size) as fd,
            calls.mapped(size, RW, SHARED_PT | MAP_FIXED_NOREPLACE, fd, addr=HERE),
            calls.mapped(size, RW, SHARED_PT | MAP_FIXED_NOREPLACE, fd, addr=THERE),
        ):
            call, value, error, alive = accesses.at(HERE)[access]

            def done(returned: int) -> None:
                assert returned == value
                assert calls.present(HERE)
                assert calls.peek(THERE) == 0
                assert calls.poke(THERE, 5)
                assert calls.peek(HERE) == 5

            def state() -> object:
                return held(), layout(HERE, THERE, length=size), alive and None

            yield Attempt(call, state, done, (error, "ENOMEM"))

    sweep(scene)


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("level", ["pmd", "pud"])
def test_a_fault_that_links(
    sweep: Callable[..., Points], accesses: Accesses, access: str, level: str
) -> None:
    """The guest needs no more than its own upper tables: it came first, and mmap had nothing to link."""
    size = GIB if level == "pud" else SIZE
    with file_of(size) as fd:

        @contextmanager
        def scene() -> Iterator[Attempt]:
            with (
                calls.mapped(size, RW, SHARED_PT | MAP_FIXED_NOREPLACE, fd, addr=HERE),
                calls.mapped(size, RW, SHARED_PT, fd) as other,
            ):
                calls.store(other, GRANULE, 0)
                call, value, error, alive = accesses.at(HERE)[access]
                linked = counters.process_tables().shared_kib
                assert linked is not None

                def done(returned: int) -> None:
                    assert returned == value
                    grown = size if level == "pud" else GRANULE
                    assert counters.process_tables().shared_kib == linked + grown // 1024
                    assert calls.faults(HERE, GRANULE) == 0

                def state() -> object:
                    tables = counters.process_tables().shared_kib, sharing()
                    return layout(HERE, length=size), tables, calls.peek(other), alive and None

                yield Attempt(call, state, done, (error, "ENOMEM"))

        sweep(scene)


@pytest.mark.parametrize("access", ["read", "write"])
def test_a_fault_that_reads_from_the_disk(
    sweep: Callable[..., Points], accesses: Accesses, ext4: Path, access: str
) -> None:
    path = ext4 / "file"
    path.write_bytes(b"".join(bytes(PAGE - 1) + b"\6" for _ in range(GRANULE // PAGE)))
    fd = os.open(path, os.O_RDWR)

    @contextmanager
    def scene() -> Iterator[Attempt]:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with (
            calls.mapped(GRANULE, RW, SHARED_PT | MAP_FIXED_NOREPLACE, fd, addr=HERE),
            calls.mapped(GRANULE, RW, SHARED_PT | MAP_FIXED_NOREPLACE, fd, addr=THERE),
        ):
            call, value, error, _ = accesses.at(HERE)[access]

            def done(returned: int) -> None:
                assert returned == value
                assert [calls.peek(THERE + PAGE - 1), calls.peek(HERE + GRANULE - 1)] == [6, 6]

            yield Attempt(call, lambda: (held(), layout(HERE, THERE)), done, (error,))

    try:
        sweep(scene)
    finally:
        os.close(fd)


# mprotect


@pytest.mark.parametrize("prot", [NONE, R], ids=["none", "read"])
def test_mprotect_that_splits(sweep: Callable[..., Points], prot: int) -> None:
    """A page in the middle: the host's one mapping becomes three."""

    @contextmanager
    def scene() -> Iterator[Attempt]:
        with guests():

            def done(_: int) -> None:
                for area in (HERE, THERE):
                    assert calls.peek(area + GRANULE + PAGE) == (0 if prot else None)
                    assert not calls.poke(area + GRANULE + PAGE, 1)
                    assert calls.poke(area + GRANULE, 2)
                    assert calls.poke(area + GRANULE + 2 * PAGE, 1)
                    assert len(layout(area)) == 3

            yield Attempt(
                (MPROTECT, HERE + GRANULE + PAGE, PAGE, prot),
                lambda: (held(), layout(HERE, THERE), content(HERE), content(THERE)),
                done,
            )

    sweep(scene)


def test_mprotect_of_several(sweep: Callable[..., Points]) -> None:
    """Over mappings of the host that differ: with an error, as ever, it may have come a part of the way."""
    first, last = GRANULE, 3 * GRANULE

    @contextmanager
    def scene() -> Iterator[Attempt]:
        with guests():
            for page in (2, 6, 10):
                calls.mprotect(HERE + GRANULE + page * PAGE, 2 * PAGE, R)

            def state() -> object:
                assert layout(HERE) == [
                    (a - THERE + HERE, b - THERE + HERE, *c) for a, b, *c in layout(THERE)
                ]
                assert layout(HERE)[0][:3:2] == (HERE, "rw-s")
                assert {access for _, _, access, _ in layout(HERE)} <= {"rw-s", "r--s"}
                return held(), content(THERE)

            def done(_: int) -> None:
                for area in (HERE, THERE):
                    assert [line[:3] for line in layout(area)] == [
                        (area, area + first + PAGE, "rw-s"),
                        (area + first + PAGE, area + last, "r--s"),
                        (area + last, area + SIZE, "rw-s"),
                    ]
                    assert not calls.poke(area + GRANULE + PAGE, 1)

            yield Attempt((MPROTECT, HERE + first + PAGE, last - first - PAGE, R), state, done)

    sweep(scene)


# munmap, mremap, madvise, mlock


def everything() -> object:
    """What the calls below must not have changed when they fail.

    A mapping that was to be split may stay so. Both parts are guests.
    """
    domains, count = held()
    split = len(calls.regions(HERE, HERE + 2 * SIZE)) + len(calls.regions(THERE, THERE + 2 * SIZE))
    return (domains, count - split), layout(HERE, THERE), content(THERE)


@pytest.mark.parametrize("size", [SIZE, GIB], ids=["pmd", "pud"])
@pytest.mark.parametrize(
    ("call", "left"),
    [
        pytest.param((MUNMAP, HERE + GRANULE, GRANULE), None, id="munmap"),
        pytest.param(
            (MMAP, HERE + GRANULE, GRANULE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), 0, id="mmap"
        ),
    ],
)
def test_the_middle_is_taken_out(
    sweep: Callable[..., Points], call: tuple[int, ...], left: int | None, size: int
) -> None:
    @contextmanager
    def scene() -> Iterator[Attempt]:
        with guests(size):

            def done(_: int) -> None:
                assert content(HERE) == [1, left, 3, 4]
                assert content(THERE) == [1, 2, 3, 4]

            def state() -> object:
                return held()[0], layout(THERE), content(THERE), content(HERE)

            # MAP_FIXED may unmap the old and then not get the new, as ever.
            gap = held()[0], layout(THERE), [1, 2, 3, 4], [1, None, 3, 4]
            yield Attempt(call, state, done, aborted=None if left is None else gap)

    sweep(scene)


ELSEWHERE = HERE + SIZE


@pytest.mark.parametrize(
    ("old", "length", "new_length", "flags", "target", "expected"),
    [
        pytest.param(0, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, ELSEWHERE, [1, 2, 3, 4], id="move"),
        pytest.param(
            GRANULE,
            GRANULE,
            GRANULE,
            MREMAP_MAYMOVE | MREMAP_FIXED,
            ELSEWHERE,
            [2, None, None, None],
            id="part",
        ),
        pytest.param(0, SIZE, SIZE + GRANULE, 0, HERE, [1, 2, 3, 4], id="grow"),
        pytest.param(0, SIZE, 2 * GRANULE, 0, HERE, [1, 2, None, None], id="shrink"),
        pytest.param(
            0, 2 * GRANULE, 3 * GRANULE, MREMAP_MAYMOVE | MREMAP_FIXED, ELSEWHERE, [1, 2, 3, None], id="both"
        ),
        pytest.param(0, 0, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, ELSEWHERE, [1, 2, 3, 4], id="duplicate"),
        pytest.param(
            0,
            SIZE,
            SIZE,
            MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED,
            ELSEWHERE,
            [1, 2, 3, 4],
            id="keep",
        ),
    ],
)
def test_mremap(
    sweep: Callable[..., Points],
    old: int,
    length: int,
    new_length: int,
    flags: int,
    target: int,
    expected: list[int | None],
) -> None:
    @contextmanager
    def scene() -> Iterator[Attempt]:
        with guests():

            def done(value: int) -> None:
                assert value == target
                assert content(target) == expected
                assert calls.poke(target, expected[0] or 0)

            yield Attempt((MREMAP, HERE + old, length, new_length, flags, target), everything, done)

    # What stands alone grows without memory.
    sweep(scene, fails=flags != 0 or new_length < length)


def test_mremap_over_another_guest(sweep: Callable[..., Points]) -> None:
    """Of another file. What was there is there still, or nothing is, as with MAP_FIXED."""

    @contextmanager
    def scene() -> Iterator[Attempt]:
        with guests(), calls.memfd(SIZE) as other:
            calls.mmap(SIZE, RW, SHARED_PT | MAP_FIXED_NOREPLACE, other, addr=ELSEWHERE)
            assert calls.poke(ELSEWHERE, 8)
            domains, count = held()

            def done(_: int) -> None:
                assert content(ELSEWHERE) == [1, 2, 3, 4]
                assert held() == (domains - 1, count - 1)

            def state() -> object:
                return held(), layout(HERE, THERE), content(THERE)

            here = [(HERE, HERE + SIZE, "rw-s", 0), (THERE, THERE + SIZE, "rw-s", 0)]
            call = (MREMAP, HERE, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, ELSEWHERE)
            yield Attempt(call, state, done, aborted=((domains - 1, count - 1), here, [1, 2, 3, 4]))

    sweep(scene)


@pytest.mark.parametrize(
    ("advice", "fails"),
    [
        pytest.param(DONTDUMP, True, id="dontdump"),
        pytest.param(DONTFORK, True, id="dontfork"),
        pytest.param(DONTNEED, False, id="dontneed"),
        pytest.param(COLD, False, id="cold"),
        pytest.param(PAGEOUT, False, id="pageout"),
        pytest.param(WILLNEED, False, id="willneed"),
        pytest.param(REMOVE, False, id="remove"),
    ],
)
def test_madvise(sweep: Callable[..., Points], advice: int, fails: bool) -> None:
    @contextmanager
    def scene() -> Iterator[Attempt]:
        with guests():
            left = [1, 0 if advice == REMOVE else 2, 3, 4]

            def done(_: int) -> None:
                assert content(HERE) == content(THERE) == left

            # EAGAIN is what madvise() makes of ENOMEM.
            yield Attempt((MADVISE, HERE + GRANULE, GRANULE, advice), everything, done, ("ENOMEM", "EAGAIN"))

    sweep(scene, fails)


def locked() -> int:
    """VmLck, KiB."""
    match = re.search(r"^VmLck:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


@pytest.mark.usefixtures("one_processor")
@pytest.mark.parametrize(
    ("call", "before", "after"),
    [
        pytest.param(MLOCK, [], [1], id="mlock"),
        pytest.param(MLOCK, [0], [0, 1], id="mlock-beside"),
        pytest.param(MLOCK, [0, 2], [0, 1, 2], id="mlock-between"),
        pytest.param(MUNLOCK, [0, 1, 2], [0, 2], id="munlock"),
    ],
)
def test_mlock(sweep: Callable[..., Points], call: int, before: list[int], after: list[int]) -> None:
    """Of a granule in the middle. Once it succeeds the pages are locked, whatever it failed with before."""
    with file_of() as fd, calls.mapped(SIZE, RW, SHARED_PT, fd) as other:
        calls.store(other, SIZE)

        @contextmanager
        def scene() -> Iterator[Attempt]:
            with calls.mapped(SIZE, RW, SHARED_PT | MAP_FIXED_NOREPLACE, fd, addr=HERE):
                for granule in before:
                    calls.mlock(HERE + granule * GRANULE, GRANULE)

                def done(_: int) -> None:
                    assert locked() == len(after) * GRANULE // 1024
                    for granule in range(3):
                        if granule not in after:
                            calls.touch(HERE + granule * GRANULE, GRANULE)
                        pages = frames(HERE + granule * GRANULE, GRANULE)
                        assert flagged(pages, MLOCKED) == len(pages) * (granule in after)

                def state() -> object:
                    return held()[0], layout(HERE), content(other)

                yield Attempt((call, HERE + GRANULE, GRANULE), state, done, ("ENOMEM", "EAGAIN"))

        sweep(scene)


@pytest.fixture
def few_mappings() -> Iterator[None]:
    """An mm can have no more than 600 mappings; this process has some 300."""
    path = Path("/proc/sys/vm/max_map_count")
    before = path.read_text()
    path.write_text("600")
    yield
    path.write_text(before)


@pytest.mark.usefixtures("one_processor")
@pytest.mark.parametrize("flags", [MAP_SHARED, SHARED_PT], ids=["ordinary", "shared"])
def test_pages_are_unlocked_or_counted(few_mappings: None, flags: int) -> None:
    """Where no mapping can be split any more, munlock fails or not, but nothing stays locked for nobody."""
    with file_of() as fd, calls.mapped(SIZE, RW, flags, fd) as at:
        calls.store(at, SIZE)
        for granule in range(2):
            calls.mlock(at + granule * GRANULE, GRANULE)
        for page in range(0, 2 * GRANULE // PAGE, 2):
            if error := calls.error_of(calls.mprotect, at + 2 * GRANULE + page * PAGE, PAGE, R):
                break
        assert error == "ENOMEM"
        pages = frames(at, 2 * GRANULE)
        for granule in range(2):
            calls.error_of(calls.munlock, at + granule * GRANULE, GRANULE)
            assert flagged(pages, MLOCKED) * PAGE // 1024 == locked()


@pytest.mark.usefixtures("one_processor")
def test_mmap_that_locks(sweep: Callable[..., Points]) -> None:
    with calls.memfd(2 * GRANULE) as fd, calls.mapped(2 * GRANULE, RW, MAP_SHARED, fd) as ordinary:
        calls.store(ordinary, 2 * GRANULE)
        sweep(first_guest(fd, MAP_LOCKED))


# fork


@contextmanager
def few_for_a_child() -> Iterator[None]:
    """A child gets the guests, and what it needs to end: the interpreter would only be more to copy."""
    needed = re.compile(r"failnth|libc\.|\[|memfd")
    self = ctypes.CDLL(None).pthread_self
    self.restype = ctypes.c_long
    others = [
        region
        for region in calls.regions(0, 1 << 47)
        if not needed.search(region.name) and not region.start <= self() < region.end
    ]
    for region in others:
        calls.madvise(region.start, region.end - region.start, DONTFORK)
    try:
        yield
    finally:
        for region in others:
            calls.madvise(region.start, region.end - region.start, DOFORK)


def test_fork(sweep: Callable[..., Points]) -> None:
    with (
        guests(GIB),
        calls.memfd(SIZE) as fd,
        calls.mapped(SIZE, RW, SHARED_PT, fd) as third,
        few_for_a_child(),
    ):
        assert calls.poke(third, 1)
        idle = held()

        @contextmanager
        def scene() -> Iterator[Attempt]:
            def done(pid: int) -> None:
                assert os.waitpid(pid, 0) == (pid, 0)
                assert settles(held, idle)

            def state() -> object:
                with suppress(ChildProcessError):
                    assert os.waitpid(-1, os.WNOHANG) == (0, 0)
                return held(), content(THERE)

            yield Attempt((CLONE, 17, 0, 0, 0, 0), state, done)  # SIGCHLD

        sweep(scene, processes=True)
