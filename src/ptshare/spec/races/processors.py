# SPDX-License-Identifier: MIT
"""What a processor does: page walks, translations that it holds, who runs on it, and flushes."""

from ptshare.spec.races.explore import Ops, Step
from ptshare.spec.races.world import OTHER, Translation, World, mistaken

__all__ = ["access", "flush_guest", "flush_host", "pin", "switch", "walk"]


def walk(world: World, number: int, write: bool) -> Translation | None:
    """The CPU reads the entry, and sets the dirty bit in it, as one locked operation."""
    domain = world.domains[number]
    if domain.table == "freed":
        world.find("the CPU walks a table that is freed")
    pte = domain.pte
    if pte is None or (write and not pte.writable):
        return None
    if write:
        domain.pte = pte = pte._replace(dirty=True)
    return Translation(*pte)


def access(world: World, translation: Translation, write: bool) -> None:
    page = world.frames[translation.frame]
    if page.freed:
        world.find(f"an access to page {translation.frame}, which is free")
    if write and world.read_only_promised:
        world.find("a store after mprotect took the right away")
    if write:
        page.unsaved = True


def pin(world: World, cpu: int, mm: str) -> Ops:
    """``get_user_pages_fast()``: a walk without locks, interrupts off, and the page released again.

    :param world: the world
    :param cpu: where it runs
    :param mm: in which mm
    """
    interrupts_off = not mistaken(world, "pin-interrupts-on")
    yield Step(f"{mm} pins a page: " + ("interrupts off, " if interrupts_off else "") + "reads the link")
    table = world.guests[mm].link
    if table is None:
        return
    if interrupts_off:
        world.busy[cpu] = "pins"
    yield Step(f"{mm} pins a page: reads the entry in the host's table")
    domain = world.domains[table]
    if domain.table == "freed":
        world.find("a walk without locks reads a table that is freed")
    pte = domain.pte
    if pte is not None:
        yield Step(f"{mm} pins a page: takes a reference unless there is none left")
        frame = pte.frame
        if world.frames[frame].refs:
            world.get_frame(frame)
            yield Step(f"{mm} pins a page: reads the entry again, and lets go of the page")
            world.put_frame(frame)
    world.busy.pop(cpu, None)


def switch(world: World, cpu: int, mm: str) -> Ops:
    """``switch_mm_irqs_off()``: another mm on this CPU.

    :param world: the world
    :param cpu: the CPU
    :param mm: what it runs from now on, "-" for what is no guest
    """
    name = "another program" if mm == OTHER else mm
    yield Step(f"switches to {name}: interrupts off, leaves the old cpumask, enters the new ones")
    world.busy[cpu] = "switches"
    old = world.loaded[cpu]
    if old != OTHER:
        world.masks[old].discard(cpu)
    if mistaken(world, "mask-left-early"):
        world.guest_cpus.discard(cpu)
    if mm != OTHER:
        world.masks[mm].add(cpu)
        if not mistaken(world, "mask-entered-late"):
            world.guest_cpus.add(cpu)
    yield Step(f"switches to {name}: compares the TLB generation, loads the tables, interrupts on")
    if mm != OTHER and world.caught_up.get((cpu, mm), 0) != world.generation[mm]:
        _drop(world, cpu, mm)
    world.loaded[cpu] = mm
    if mm != OTHER and mistaken(world, "mask-entered-late"):
        table = world.guests[mm].link
        if table is not None:
            yield Step(f"walks the tables of {mm} ahead of the program")
            world.links_cached[cpu, mm] = table
            ahead = walk(world, table, write=False)
            if ahead is not None:
                world.tlb[cpu, mm] = ahead
        yield Step("enters the mask of CPUs that may run guests")
        world.guest_cpus.add(cpu)
    del world.busy[cpu]


def _drop(world: World, cpu: int, mm: str) -> None:
    world.tlb.pop((cpu, mm), None)
    world.links_cached.pop((cpu, mm), None)
    world.caught_up[cpu, mm] = world.generation[mm]


def flush_guest(world: World, cpu: int, mm: str) -> Ops:
    """``flush_tlb_mm_range()`` of a guest, with paging-structure caches: its links were dropped."""
    yield Step(f"flushes {mm}: raises its TLB generation, reads its cpumask")
    world.generation[mm] += 1
    targets = frozenset(world.masks[mm])
    for target in sorted(targets):
        yield Step(f"flushes {mm}: CPU {target} drops what it has of {mm}", world.interruptible(target))
        if world.loaded[target] == mm:
            _drop(world, target, mm)


def flush_host(world: World, cpu: int, caller: str = "") -> Ops:
    """``arch_ptshare_flush()``: all that CPUs have of any guest."""
    if mistaken(world, "flush-host-cpumask"):
        yield Step("flushes the host: reads the host's cpumask, which is empty")
        return
    if caller and mistaken(world, "flush-caller-only"):
        yield from flush_guest(world, cpu, caller)
        return
    yield Step("flushes the host: reads the mask of CPUs that may run guests")
    targets = frozenset(world.guest_cpus)
    for target in sorted(targets):
        yield Step(f"flushes the host: interrupts CPU {target}", world.interruptible(target))
        if world.loaded[target] == OTHER:
            world.guest_cpus.discard(target)
        if target != cpu:
            # Interrupts are off in the handler: out of the mask, it cannot switch before it has dropped all.
            atomic = not mistaken(world, "handler-interrupted")
            if atomic:
                world.busy[target] = "handler"
            yield Step(f"flushes the host: CPU {target} drops all translations")
            if atomic:
                del world.busy[target]
        for mm in "ABC":
            world.tlb.pop((target, mm), None)
            world.links_cached.pop((target, mm), None)
