# SPDX-License-Identifier: MIT
"""An access, and the page fault that it may take: ptshare_fault()."""

from ptshare.spec.races.explore import Ops, Step
from ptshare.spec.races.processors import access, walk
from ptshare.spec.races.world import Frame, Pte, World, mistaken

__all__ = ["touch"]


def touch(world: World, cpu: int, mm: str, *, write: bool) -> Ops:
    """A load or a store of a program, with the faults that it takes. Returns whether it was done.

    :param world: the world
    :param cpu: where it runs
    :param mm: in which mm
    :param write: a store
    """
    verb = "stores" if write else "loads"
    while True:
        translation = world.tlb.get((cpu, mm))
        good = translation is not None and (translation.dirty or not write)
        yield Step(f"{mm} {verb}: " + ("the TLB has it" if good else "reads the link for its walk"))
        translation = world.tlb.get((cpu, mm))
        if translation is not None and (translation.dirty or not write):
            access(world, translation, write)
            return True
        # A walk and the access are one instruction, no interrupt comes between.
        world.tlb.pop((cpu, mm), None)
        table = world.links_cached.get((cpu, mm), world.guests[mm].link)
        if table is not None:
            world.links_cached[cpu, mm] = table
            world.busy[cpu] = "walks"
            yield Step(f"{mm} {verb}: reads the entry in the host's table")
            filled = walk(world, table, write)
            if filled is not None:
                world.tlb[cpu, mm] = filled
                yield Step(f"{mm} {verb}: by the translation it has just read")
                access(world, filled, write)
                del world.busy[cpu]
                return True
            del world.busy[cpu]
        outcome = yield from _fault(world, cpu, mm, write)
        if outcome != "again":
            return False


def _fault(world: World, cpu: int, mm: str, write: bool) -> Ops:
    """Returns "again" when the access is to be tried again, "signal" when it is not."""
    lock = f"mm:{mm}"
    yield Step(f"{mm} faults: takes its own window's lock", world.free_for(f"r:{lock}"))
    if not world.guests[mm].present:
        return "signal"
    number = world.guests[mm].domain
    assert number is not None
    domain = world.domains[number]
    world.take(cpu, f"r:{lock}")
    yield Step(f"{mm} faults: reads the host's entry, without a lock")
    if domain.table == "freed":
        world.find("a fault reads a table that is freed")
    pte = domain.pte
    if pte is None or (write and not pte.writable):
        host = f"host:{number}"
        yield Step(f"{mm} faults: tries the lock of the host's VMA")
        if not world.is_free(f"r:{host}"):
            # Not waited for under the lock of the window: again, from the start, with the mmap_locks.
            world.release(cpu, lock)
            yield Step(f"{mm} faults: takes its mmap_lock", world.free_for(f"r:{lock}"))
            if not world.guests[mm].present:
                return "signal"
            world.take(cpu, f"r:{lock}")
            yield Step(f"{mm} faults: takes the mmap_lock of the host", world.free_for(f"r:{host}"))
        world.take(cpu, f"r:{host}")
        if write and not domain.writable and not mistaken(world, "guest-flags"):
            world.release(cpu, host, lock)
            return "signal"
        outcome = yield from _host_fault(world, cpu, mm, number, write)
        world.release(cpu, host)
        if outcome != "done":
            world.release(cpu, lock)
            return outcome
    yield from _link(world, cpu, mm, number)
    if not mistaken(world, "link-unlocked"):
        world.release(cpu, lock)
    return "again"


def _host_fault(world: World, cpu: int, mm: str, number: int, write: bool) -> Ops:
    """``__handle_mm_fault()`` in the host, whose VMA is locked."""
    domain = world.domains[number]
    ptl = f"ptl:{number}"
    if domain.table == "none":
        yield Step(f"{mm} faults: gives the host a table, if it has none yet")
        if domain.table == "none":
            domain.table = "there"
    pte = domain.pte
    if pte is not None:
        yield Step(
            f"{mm} faults: allows stores, under the table's lock, if the entry is the same still",
            world.free_for(ptl),
        )
        if domain.pte == pte:
            domain.pte = pte._replace(writable=True, dirty=True)
        return "done"

    yield Step(f"{mm} faults: looks for the page in the page cache, takes a reference")
    if world.size == 0:
        return "signal"
    if world.cached is None:
        world.frames.append(Frame())
        world.cached = len(world.frames) - 1
    frame = world.cached
    world.get_frame(frame)
    yield Step(
        f"{mm} faults: locks the page; is it the file's, before the file's end?", world.free_for("page")
    )
    if not mistaken(world, "page-not-checked"):
        if world.cached != frame:
            world.put_frame(frame)
            return "again"
        if world.size == 0:
            world.put_frame(frame)
            return "signal"
    world.take(cpu, "page")
    yield Step(
        f"{mm} faults: sets the host's entry, under the table's lock, if there is none", world.free_for(ptl)
    )
    if domain.pte is None:
        domain.pte = Pte(frame, write, write)  # the reference is the entry's now
    else:
        world.put_frame(frame)
    world.release(cpu, "page")
    return "done"


def _link(world: World, cpu: int, mm: str, number: int) -> Ops:
    """``ptshare_link()``. The share count goes up before the link is made."""
    guest, domain, pmd = world.guests[mm], world.domains[number], f"pmd:{mm}"
    if mistaken(world, "link-unlocked"):
        world.release(cpu, f"mm:{mm}")
    yield Step(f"{mm} faults: reads which table the host has")
    if domain.table == "none":
        return
    if domain.table == "freed":
        world.find("a fault finds a table that is freed")
    if mistaken(world, "link-not-checked-again"):
        if guest.link is not None:
            return
        yield Step(
            f"{mm} faults: saw no link; locks its PMD table, raises the table's count", world.free_for(pmd)
        )
    else:
        yield Step(
            f"{mm} faults: locks its PMD table; with no link there, raises the table's count",
            world.free_for(pmd),
        )
        if guest.link is not None:
            return
    world.take(cpu, pmd)
    if not mistaken(world, "count-after-link"):
        domain.links += 1
    yield Step(f"{mm} faults: sets the link")
    guest.link = number
    if mistaken(world, "count-after-link"):
        yield Step(f"{mm} faults: raises the table's count")
        domain.links += 1
    world.release(cpu, pmd)
