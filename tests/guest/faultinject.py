# SPDX-License-Identifier: MIT
"""System calls in which one allocation of the kernel fails, each in its turn."""

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

_DEBUGFS = Path("/sys/kernel/debug")

#: What makes all allocations of a task fail when it is their turn, with or without reclaim, of any size, and
#: pages of user memory too; and with no word on the console.
_SETTINGS = {
    "failslab/ignore-gfp-wait": "N",
    "failslab/verbose": "0",
    "fail_page_alloc/ignore-gfp-wait": "N",
    "fail_page_alloc/ignore-gfp-highmem": "N",
    "fail_page_alloc/min-order": "0",
    "fail_page_alloc/verbose": "0",
}

#: No call that is tested has so many allocations: the sweep does not end.
_MANY = 5000


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    :param value: what it returned, 0 with an error
    :param error: the name of the error number, empty if there was none
    :param injected: an allocation failed in it
    """

    value: int
    error: str
    injected: bool


@dataclass(frozen=True)
class Attempt:
    """A call, set up and not made yet.

    :param call: number and arguments
    :param state: what a call that failed must not have changed
    :param done: asserts that the call took effect; gets what it returned
    :param errors: what it may fail with
    :param aborted: what ``state`` may be after an error besides what it was
    """

    call: tuple[int, ...]
    state: Callable[[], object]
    done: Callable[[int], None]
    errors: tuple[str, ...] = ("ENOMEM",)
    aborted: object = None


@dataclass
class Points:
    """Allocations of a call that were made to fail.

    :param failed: with them the call
    :param survived: the call went on
    :param aborted: how many of ``failed`` left the state :attr:`Attempt.aborted`
    """

    failed: int = 0
    survived: int = 0
    aborted: int = 0


class Injector:
    """The library failnth.c, and the process's switch for it."""

    def __init__(self, library: Path) -> None:
        self._call = ctypes.CDLL(str(library)).call_failing_nth
        self._call.restype = ctypes.c_long
        self._control = os.open("/proc/thread-self/fail-nth", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._control)

    def call(self, number: int, *arguments: int, nth: int = 0) -> Outcome:
        """Make a system call in which the ``nth`` allocation fails; 0: none."""
        words = (ctypes.c_long * 7)(number, *arguments)
        injected = ctypes.c_int()
        value = self._call(self._control, ctypes.c_uint(nth), words, ctypes.byref(injected))
        # The kernel returns error numbers as the negative numbers from -4095 on.
        error = errno.errorcode[-value].replace("ENOTSUP", "EOPNOTSUPP") if -4096 < value < 0 else ""
        return Outcome(0 if error else value, error, bool(injected.value))

    def sweep(self, scene: Callable[[], AbstractContextManager[Attempt]]) -> Points:
        """Make the call with its first allocation failing, then with its second, and so on, until there is
        none left to fail; each time in a new scene.

        A call that fails does so with one of the attempt's errors and changes nothing, and then succeeds
        with all memory that it wants.
        """
        points = Points()
        for nth in range(1, _MANY):
            with scene() as attempt:
                before = attempt.state()
                outcome = self.call(*attempt.call, nth=nth)
                if outcome.error:
                    where = f"allocation {nth}: {outcome}"
                    assert outcome.injected, where
                    assert outcome.error in attempt.errors, where
                    points.failed += 1
                    after = attempt.state()
                    if after != before:
                        assert after == attempt.aborted, where
                        points.aborted += 1
                    again = self.call(*attempt.call)
                    assert not again.error, f"{again} after {where}"
                    attempt.done(again.value)
                    continue
                attempt.done(outcome.value)
                if not outcome.injected:
                    return points
                points.survived += 1
        raise AssertionError("there is no end to the allocations")


@contextmanager
def injector(directory: Path) -> Iterator[Injector]:
    """The library, built in ``directory``, and the kernel's settings for it."""
    library = directory / "failnth.so"
    source = Path(__file__).with_name("failnth.c")
    command = [
        "cc",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(source),
    ]
    subprocess.run(command, check=True)
    before = {name: (_DEBUGFS / name).read_text() for name in _SETTINGS}
    for name, value in _SETTINGS.items():
        (_DEBUGFS / name).write_text(value)
    made = Injector(library)
    try:
        yield made
    finally:
        made.close()
        for name, value in before.items():
            (_DEBUGFS / name).write_text(value)


def kernel_objects() -> dict[str, int]:
    """How many the kernel has of what mappings are made of."""
    counts = {}
    # filp: the count in /proc/sys/fs/file-nr leaves out what each CPU has not added yet.
    for name in ("mm_struct", "vm_area_struct", "filp", "shmem_inode_cache"):
        cache = Path("/sys/kernel/slab") / name
        # Until then free objects that a CPU keeps for itself count as used.
        (cache / "shrink").write_text("1")
        counts[name] = int((cache / "objects").read_text().split()[0])
    return counts
