# SPDX-License-Identifier: MIT
"""The races: who runs where at first, and what each CPU then does. And the mistakes that must be found."""

from collections.abc import Callable
from typing import NamedTuple

from ptshare.spec.races.changes import mprotect, reclaim, truncate, write_back
from ptshare.spec.races.explore import Ops, Result, Step, explore
from ptshare.spec.races.faults import touch
from ptshare.spec.races.guests import attach, dontneed, fork, munmap
from ptshare.spec.races.processors import pin, switch
from ptshare.spec.races.world import OTHER, World

__all__ = ["MISTAKES", "RACES", "Mistake", "Race", "run"]

Start = Callable[[World], list[Ops]]


class Race(NamedTuple):
    """What meets, in words; how it begins; and how many states there are at least."""

    words: str
    start: Start
    floor: int


class Mistake(NamedTuple):
    """What is done wrong, in words; and the races in which it must be found."""

    words: str
    races: tuple[str, ...]


def _one_after_another(*operations: Ops) -> Ops:
    # The number tells the explorer which of two that are alike is under way.
    for _number, operation in enumerate(operations):
        yield from operation


def _unmap(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page()
    world.run(0, "A")
    world.run(1, "A")
    return [touch(world, 0, "A", write=True), munmap(world, 1, "A")]


def _mprotect(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page()
    world.run(0, "A")
    world.run(1, "B")
    return [touch(world, 0, "A", write=True), mprotect(world, 1, "B")]


def _mprotect_thread(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page()
    world.run(0, "A")
    world.run(1, "A")
    return [touch(world, 0, "A", write=True), mprotect(world, 1, "A")]


def _truncate_detach(world: World) -> list[Ops]:
    world.add_domain("A")
    world.cache_page(mapped=True)
    world.link("A")
    world.run(0, "A", warm=True)
    world.run(1, OTHER)
    world.run(2, "A", warm=True)
    return [munmap(world, 0, "A"), truncate(world, 1)]


def _truncate_reclaim(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page(mapped=True)
    world.link("A")
    world.run(0, "A", warm=True)
    world.run(1, OTHER)
    world.run(2, OTHER)
    return [touch(world, 0, "A", write=False), reclaim(world, 1), truncate(world, 2)]


def _truncate(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page()
    world.run(0, "A")
    world.run(1, OTHER)
    return [touch(world, 0, "A", write=True), truncate(world, 1)]


def _last_detach(world: World) -> list[Ops]:
    world.add_domain("A")
    world.cache_page(mapped=True)
    world.link("A")
    world.run(0, "A", warm=True)
    world.run(1, "A")
    return [touch(world, 0, "A", write=True), munmap(world, 1, "A")]


def _rmap_last_detach(world: World) -> list[Ops]:
    world.add_domain("A")
    world.cache_page(mapped=True, dirty=True)
    world.link("A")
    world.run(0, "A", warm=True)
    world.run(1, OTHER)
    return [munmap(world, 0, "A"), reclaim(world, 1)]


def _fork(world: World) -> list[Ops]:
    world.add_domain("A")
    world.cache_page(mapped=True)
    world.link("A")
    world.run(0, "A")
    world.run(1, "A")
    world.run(2, OTHER)

    def child() -> Ops:
        yield Step("C waits to be there", lambda: world.guests["C"].present)
        yield from switch(world, 2, "C")
        yield from touch(world, 2, "C", write=False)

    return [
        touch(world, 0, "A", write=True),
        _one_after_another(fork(world, 1, "A", "C"), munmap(world, 1, "A")),
        child(),
    ]


def _reclaim(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page(mapped=True, dirty=True)
    world.link("B")
    world.run(0, "A")
    world.run(1, OTHER)
    world.run(2, "B", warm=True)
    return [touch(world, 0, "A", write=True), reclaim(world, 1)]


def _access(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page(mapped=True, dirty=True)
    world.link("A")
    world.run(0, "A", warm=True)
    world.run(1, OTHER)
    twice = _one_after_another(*(touch(world, 0, "A", write=True) for _ in range(2)))
    return [twice, write_back(world, 1)]


def _switch(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page(mapped=True, dirty=True)
    world.link("A")
    world.link("B")
    world.run(0, "A", warm=True)
    world.run(1, OTHER)
    world.run(2, OTHER)
    back = _one_after_another(
        switch(world, 0, OTHER), switch(world, 0, "A"), touch(world, 0, "A", write=True)
    )
    once = _one_after_another(switch(world, 2, "B"), touch(world, 2, "B", write=False))
    return [back, reclaim(world, 1), once]


def _two_flushes(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page(mapped=True, dirty=True)
    world.link("A")
    world.run(0, "A", warm=True)
    world.run(1, OTHER)
    world.run(2, "B")
    back = _one_after_another(
        switch(world, 0, OTHER), switch(world, 0, "A"), touch(world, 0, "A", write=True)
    )
    return [back, reclaim(world, 1), mprotect(world, 2, "B")]


def _attach(world: World) -> list[Ops]:
    world.add_domain("A")
    world.cache_page(mapped=True)
    world.link("A")
    world.run(0, "B")
    world.run(1, "A", warm=True)
    joins = _one_after_another(attach(world, 0, "B"), touch(world, 0, "B", write=True))
    return [joins, munmap(world, 1, "A")]


def _pin(world: World) -> list[Ops]:
    world.add_domain("A")
    world.cache_page(mapped=True)
    world.link("A")
    world.run(0, "A", warm=True)
    world.run(1, "A")
    return [pin(world, 0, "A"), munmap(world, 1, "A")]


def _two_faults(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page()
    world.run(0, "A")
    world.run(1, "A")
    return [touch(world, 0, "A", write=True), touch(world, 1, "A", write=False)]


def _dontneed(world: World) -> list[Ops]:
    world.add_domain("A", "B")
    world.cache_page(mapped=True)
    world.link("A")
    world.run(0, "A", warm=True)
    world.run(1, "A")
    return [touch(world, 0, "A", write=True), dontneed(world, 1, "A")]


RACES = {
    "access": Race("stores by a translation that is held, against writeback that flushes", _access, 70),
    "attach": Race("a new guest and its first fault, against the last one's munmap", _attach, 190),
    "dontneed": Race("a fault against MADV_DONTNEED of another thread", _dontneed, 40),
    "fork": Race(
        "a fault, against fork and the parent's munmap, against the child's first fault", _fork, 550
    ),
    "last-detach": Race("a fault against munmap of the last guest", _last_detach, 40),
    "mprotect": Race("the first fault against mprotect by another guest", _mprotect, 130),
    "mprotect-thread": Race("the first fault against mprotect by another thread", _mprotect_thread, 60),
    "pin": Race("get_user_pages_fast() against munmap of the last guest", _pin, 30),
    "reclaim": Race("a fault against reclaim; another guest has the translation", _reclaim, 230),
    "rmap": Race("reclaim against the end of the domain", _rmap_last_detach, 130),
    "switch": Race("CPUs that leave a guest and enter one, against reclaim", _switch, 4080),
    "truncate": Race("the first fault against truncate", _truncate, 230),
    "truncate-detach": Race("truncate against the end of the domain", _truncate_detach, 150),
    "truncate-reclaim": Race(
        "a load by a translation that is held, reclaim, and truncate", _truncate_reclaim, 860
    ),
    "two-faults": Race("first faults of two threads", _two_faults, 330),
    "two-flushes": Race(
        "a CPU that leaves a guest and comes back, reclaim, and mprotect", _two_flushes, 3570
    ),
    "unmap": Race("the first fault against munmap by another thread; another guest stays", _unmap, 60),
}

MISTAKES: dict[str, Mistake] = {
    "batch-forgotten": Mistake(
        "mprotect and truncate do not flush what reclaim has cleared", ("two-flushes", "truncate-reclaim")
    ),
    "close-before-unlink": Mistake("the guest is closed before its links are cleared", ("last-detach",)),
    "count-after-link": Mistake("the count of links goes up after the link is made", ("two-faults",)),
    "count-before-unlink": Mistake("the count of links goes down before the link is cleared", ("unmap",)),
    "dirty-bit-dropped": Mistake("the dirty bit of a cleared entry is not kept", ("reclaim", "rmap")),
    "flush-before-clear": Mistake(
        "flushed first, cleared then", ("access", "last-detach", "mprotect", "reclaim", "truncate")
    ),
    "flush-caller-only": Mistake("mprotect flushes only the CPUs of the mm that calls it", ("mprotect",)),
    "flush-host-cpumask": Mistake(
        "the flush goes by the host's own cpumask, which is empty",
        ("access", "mprotect", "reclaim", "truncate"),
    ),
    "fork-copies-link": Mistake("fork copies the link, and does not count it", ("fork",)),
    "fork-not-counted": Mistake("fork does not count the child as a guest", ("fork",)),
    "found-then-counted": Mistake("a domain is found under the lock, and counted after it", ("attach",)),
    "free-before-batch": Mistake("reclaim frees the page before the batch is flushed", ("truncate-reclaim",)),
    "free-before-flush": Mistake(
        "the domain, and its tables, are freed before the guest's flush",
        ("last-detach", "pin", "truncate-detach"),
    ),
    "guest-flags": Mistake("a fault goes by the guest's flags, not by the host's", ("mprotect",)),
    "handler-interrupted": Mistake(
        "a CPU that has left the mask, told to flush, can switch before it drops what it has",
        ("two-flushes",),
    ),
    "host-lock-first": Mistake("mprotect takes the host's lock before the guest's", ("mprotect-thread",)),
    "host-vma-not-locked": Mistake("mprotect does not lock the host's VMA against faults", ("mprotect",)),
    "link-not-checked-again": Mistake(
        "a link is set without a look, under the lock, whether one stands", ("two-faults",)
    ),
    "link-unlocked": Mistake("a fault links after it has let go of the window's lock", ("unmap",)),
    "mask-entered-late": Mistake("a CPU enters the mask after it has loaded the tables", ("switch",)),
    "mask-left-early": Mistake("a CPU leaves the mask when it switches, without a flush", ("switch",)),
    "page-not-checked": Mistake("a fault does not ask, under the page's lock, whose it is", ("truncate",)),
    "pin-interrupts-on": Mistake("get_user_pages_fast() walks with interrupts on", ("pin",)),
    "tables-before-rmap": Mistake("the tables go before the host is out of i_mmap", ("rmap",)),
    "truncate-by-links": Mistake("truncate passes over tables that no guest has linked yet", ("truncate",)),
    "unhash-late": Mistake("the last guest lets go of the lock before it takes the domain out", ("attach",)),
    "write-before-batch": Mistake("reclaim writes a dirty page out before the flush", ("switch",)),
}


def run(race: str, mistake: str = "") -> Result:
    """Try all orders of a race.

    :param race: its name in ``RACES``
    :param mistake: a name in ``MISTAKES``, or empty for the kernel's own order of steps
    """

    def start() -> tuple[World, list[Ops]]:
        world = World(mistake)
        return world, RACES[race].start(world)

    return explore(start)
