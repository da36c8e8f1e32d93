# SPDX-License-Identifier: MIT
"""Each allocation of what changes, locks, moves, unmaps or inherits guests fails once, as in
test_allocation_failures.py.
"""

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import calls
import pytest
from calls import (
    GIB,
    GRANULE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
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
from faultinject import Attempt, Points
from pagebits import flagged, frames
from sweeping import HERE, SIZE, THERE, content, file_of, guests, held, layout

from held import settles

# x86-64
MMAP, MPROTECT, MUNMAP, MREMAP, MADVISE, CLONE, MLOCK, MUNLOCK = 9, 10, 11, 25, 28, 56, 149, 150

WILLNEED, DONTNEED, REMOVE, DONTFORK, DOFORK, DONTDUMP, COLD, PAGEOUT = 3, 4, 9, 10, 11, 16, 20, 21

#: include/linux/kernel-page-flags.h
MLOCKED = 1 << 33


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
