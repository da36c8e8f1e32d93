# SPDX-License-Identifier: MIT
"""Each allocation of mmap and of a fault fails once: the call fails with an error number, or goes on without.

Never half: what it was to change is as it was, the other guests notice nothing, the same call succeeds when
there is memory again, and in the end all is given back. test_allocation_failures_of_changes.py has the other
calls.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import calls
import pytest
from calls import (
    GIB,
    GRANULE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_POPULATE,
    MAP_SHARED,
    PAGE,
    RW,
    SHARED_PT,
)
from faultinject import Attempt, Points
from sweeping import HERE, SIZE, THERE, Scene, clear, content, file_of, held, layout

from held import sharing
from ptshare import counters

# x86-64
READ, MMAP, PWRITE64, MADVISE, PROCESS_VM_READV, PROCESS_VM_WRITEV = 0, 9, 18, 28, 310, 311


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


@pytest.mark.usefixtures("one_processor")
def test_mmap_that_locks(sweep: Callable[..., Points]) -> None:
    with calls.memfd(2 * GRANULE) as fd, calls.mapped(2 * GRANULE, RW, MAP_SHARED, fd) as ordinary:
        calls.store(ordinary, 2 * GRANULE)
        sweep(first_guest(fd, MAP_LOCKED))
