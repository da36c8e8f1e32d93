# SPDX-License-Identifier: MIT
"""Guests come and go: mmap, munmap, MADV_DONTNEED, fork, and the end of a domain."""

from ptshare.spec.races.explore import Ops, Step
from ptshare.spec.races.processors import flush_guest
from ptshare.spec.races.world import Domain, World, mistaken

__all__ = ["attach", "dontneed", "fork", "munmap"]


def attach(world: World, cpu: int, mm: str) -> Ops:
    """mmap with ``MAP_SHARED_PT``: finds the domain, or makes one.

    :param world: the world
    :param cpu: where it runs
    :param mm: who maps
    """
    lock = f"mm:{mm}"
    yield Step(f"mmap of {mm}: takes its mmap_lock", world.free_for(lock))
    world.take(cpu, lock)
    number = yield from _find(world, cpu, mm)
    if number is None:
        yield Step(
            f"mmap of {mm}: makes a host; adds its domain unless there is one by now",
            world.free_for("domains"),
        )
        number = next((n for n, domain in enumerate(world.domains) if domain.hashed), None)
        if number is None:
            world.domains.append(Domain())
            number = len(world.domains) - 1
        world.domains[number].guests_ref += 1
    yield Step(f"mmap of {mm}: joins the list of guests; the CPUs it runs on enter the mask")
    world.domains[number].guests.add(mm)
    world.guests[mm].domain = number
    world.guest_cpus |= world.masks[mm]
    yield Step(f"mmap of {mm}: puts the window into its tree, and returns")
    world.guests[mm].present = True
    world.release(cpu, lock)


def _find(world: World, cpu: int, mm: str) -> Ops:
    yield Step(f"mmap of {mm}: looks for the domain and counts itself", world.free_for("domains"))
    number = next((n for n, domain in enumerate(world.domains) if domain.hashed), None)
    if number is None:
        return None
    if mistaken(world, "found-then-counted"):
        yield Step(f"mmap of {mm}: has dropped the lock, and counts itself")
    if world.domains[number].guests_ref == 0:
        world.find(f"{mm} takes a domain whose last guest is gone")
    world.domains[number].guests_ref += 1
    return number


def munmap(world: World, cpu: int, mm: str) -> Ops:
    """munmap of the whole window; exit does the same.

    :param world: the world
    :param cpu: where it runs
    :param mm: who unmaps
    """
    lock, guest = f"mm:{mm}", world.guests[mm]
    yield Step(
        f"munmap of {mm}: locks the window for writing, takes it out of its tree", world.free_for(lock)
    )
    number = guest.domain
    assert number is not None
    world.take(cpu, f"r:{lock}")  # downgraded
    guest.present = False
    early = mistaken(world, "free-before-flush")
    if mistaken(world, "close-before-unlink"):
        yield from _close(world, cpu, mm, number)
        yield from _unlink(world, cpu, mm)
        yield from flush_guest(world, cpu, mm)
    elif mistaken(world, "flush-before-clear"):
        yield from flush_guest(world, cpu, mm)
        yield from _unlink(world, cpu, mm)
        yield from _close(world, cpu, mm, number)
    else:
        yield from _unlink(world, cpu, mm)
        if not early:
            yield from flush_guest(world, cpu, mm)
        yield from _close(world, cpu, mm, number)
        if early:
            yield from flush_guest(world, cpu, mm)
    yield Step(f"munmap of {mm}: returns")
    guest.gone = True
    world.release(cpu, lock)


def dontneed(world: World, cpu: int, mm: str) -> Ops:
    """``MADV_DONTNEED``: drops the link, under the mmap_lock for reading.

    :param world: the world
    :param cpu: where it runs
    :param mm: who calls it
    """
    lock = f"mm:{mm}"
    yield Step(f"madvise of {mm}: takes its mmap_lock for reading", world.free_for(f"r:{lock}"))
    world.take(cpu, f"r:{lock}")
    yield from _unlink(world, cpu, mm)
    yield from flush_guest(world, cpu, mm)
    yield Step(f"madvise of {mm}: returns")
    world.release(cpu, lock)


def _unlink(world: World, cpu: int, mm: str) -> Ops:
    """``ptshare_unlink_range()``. The share count goes down after the link is gone."""
    pmd, guest = f"pmd:{mm}", world.guests[mm]
    yield Step(f"{mm} unlinks: locks its PMD table, clears the link if there is one", world.free_for(pmd))
    number = guest.link
    if number is None:
        return
    world.take(cpu, pmd)
    if mistaken(world, "count-before-unlink"):
        world.domains[number].links -= 1
        yield Step(f"{mm} unlinks: has lowered the table's count, now clears the link")
        guest.link = None
    else:
        guest.link = None
        yield Step(f"{mm} unlinks: lowers the table's count")
        world.domains[number].links -= 1
    world.release(cpu, pmd)


def _close(world: World, cpu: int, mm: str, number: int) -> Ops:
    """``ptshare_guest_close()``, and the end of the domain after the last one."""
    domain = world.domains[number]
    yield Step(f"munmap of {mm}: leaves the list of guests")
    domain.guests.discard(mm)
    yield Step(
        f"munmap of {mm}: counts one guest fewer, the last one takes the domain out of the hash",
        world.free_for("domains"),
    )
    domain.guests_ref -= 1
    world.guests[mm].domain = None
    if domain.guests_ref:
        return
    if mistaken(world, "unhash-late"):
        yield Step("the last guest is gone: takes the domain out of the hash", world.free_for("domains"))
    domain.hashed = False
    yield from _free_host(world, cpu, number)


def _free_host(world: World, cpu: int, number: int) -> Ops:
    """``ptshare_free_domain()``, and in it ``exit_mmap()`` of the host."""
    domain, ptl = world.domains[number], f"ptl:{number}"
    yield Step("the host goes: drops the notifier that flushes, rmap can find the host still")
    domain.notified = False
    yield Step("the host goes: clears its entry, under the table's lock", world.free_for(ptl))
    pte = domain.pte
    if pte is not None:
        domain.pte = None
        world.frames[pte.frame].dirty |= pte.dirty
        yield Step("the host goes: lets go of the page")
        world.put_frame(pte.frame)
    if not mistaken(world, "tables-before-rmap"):
        yield Step("the host goes: takes its VMA out of i_mmap", world.free_for("i_mmap"))
        domain.in_i_mmap = False
    yield Step("the host goes: frees the table")
    domain.table = "freed"
    if mistaken(world, "tables-before-rmap"):
        yield Step("the host goes: takes its VMA out of i_mmap", world.free_for("i_mmap"))
        domain.in_i_mmap = False


def fork(world: World, cpu: int, mm: str, child: str) -> Ops:
    """fork: the child has a window of its own, and no link.

    :param world: the world
    :param cpu: where it runs
    :param mm: the parent
    :param child: the child
    """
    lock, guest = f"mm:{mm}", world.guests[child]
    yield Step(f"fork of {mm}: takes its mmap_lock for writing", world.free_for(lock))
    number = world.guests[mm].domain
    assert number is not None
    world.take(cpu, lock)
    if not mistaken(world, "fork-not-counted"):
        yield Step(f"fork of {mm}: counts {child} as a guest")
        world.domains[number].guests_ref += 1
    yield Step(f"fork of {mm}: {child} joins the list of guests")
    world.domains[number].guests.add(child)
    guest.domain = number
    if mistaken(world, "fork-copies-link"):
        yield Step(f"fork of {mm}: copies the link of {mm}, as other entries are copied")
        guest.link = world.guests[mm].link
    yield Step(f"fork of {mm}: returns, {child} may run")
    guest.present = True
    world.release(cpu, lock)
