# SPDX-License-Identifier: MIT
"""What changes entries of a host: mprotect, truncation, reclaim, writeback."""

from ptshare.spec.races.explore import Ops, Step
from ptshare.spec.races.processors import flush_host
from ptshare.spec.races.world import World, mistaken

__all__ = ["mprotect", "reclaim", "truncate", "write_back"]


def _change_then_flush(world: World, cpu: int, number: int, change: Ops, caller: str = "") -> Ops:
    """The entry first, then the flush: who reads the entry later reads the new one. ``change`` returns what
    it has changed; the gather flushes nothing when that is nothing."""
    if mistaken(world, "flush-before-clear"):
        yield from flush_host(world, cpu, caller)
        return (yield from change)
    changed = yield from change
    if changed is not None and world.domains[number].notified:
        yield from flush_host(world, cpu, caller)
    return changed


def _flush_batched(world: World, cpu: int, number: int) -> Ops:
    """``flush_tlb_batched_pending()``, under the table's lock: reclaim may have cleared the entry, and not
    flushed yet."""
    domain = world.domains[number]
    if domain.batched and domain.notified and not mistaken(world, "batch-forgotten"):
        yield from flush_host(world, cpu)
        domain.batched = False


def mprotect(world: World, cpu: int, mm: str) -> Ops:
    """mprotect that takes the right to store from all guests.

    :param world: the world
    :param cpu: where it runs
    :param mm: who calls it
    """
    lock = f"mm:{mm}"
    number = world.guests[mm].domain
    assert number is not None
    domain, host, ptl = world.domains[number], f"host:{number}", f"ptl:{number}"
    locks: tuple[str, ...] = (host, lock) if mistaken(world, "host-lock-first") else (lock, host)
    if mistaken(world, "host-vma-not-locked"):
        locks = (lock,)
    for name in locks:
        whose = "the host's mmap_lock" if name == host else "its mmap_lock"
        yield Step(f"mprotect of {mm}: takes {whose} for writing", world.free_for(name))
        world.take(cpu, name)

    yield Step(f"mprotect of {mm}: the host's VMA allows no stores from now on")
    domain.writable = False

    def change() -> Ops:
        yield Step(f"mprotect of {mm}: locks the table", world.free_for(ptl))
        world.take(cpu, ptl)
        yield from _flush_batched(world, cpu, number)
        yield Step(f"mprotect of {mm}: the host's entry, if any, allows no stores from now on")
        pte = domain.pte
        if pte is not None:
            domain.pte = pte._replace(writable=False)
        world.release(cpu, ptl)
        return pte

    yield from _change_then_flush(world, cpu, number, change(), mm)
    yield Step(f"mprotect of {mm}: returns")
    world.read_only_promised = True
    world.release(cpu, *locks)


def _rmap_clear(world: World, cpu: int, who: str, number: int, *, batch: bool = False) -> Ops:
    """The host's entry goes; i_mmap is locked for reading. Returns the page that it mapped. ``batch``: the
    caller flushes later, others can see that they must not wait for it."""
    domain, ptl = world.domains[number], f"ptl:{number}"
    yield Step(f"{who}: locks the table", world.free_for(ptl))
    if domain.table == "freed":
        world.find(f"{who} by way of i_mmap in a table that is freed")
    world.take(cpu, ptl)
    if not batch:
        yield from _flush_batched(world, cpu, number)
    yield Step(f"{who}: clears the host's entry, if any, and keeps its dirty bit")
    world.release(cpu, ptl)
    pte = domain.pte
    if pte is None:
        return None
    domain.pte = None
    if not mistaken(world, "dirty-bit-dropped"):
        world.frames[pte.frame].dirty |= pte.dirty
    domain.batched |= batch
    return pte.frame


def _zap_file(world: World, cpu: int, who: str) -> Ops:
    """``unmap_mapping_range()``. The page goes after the flush."""
    yield Step(f"{who}: locks i_mmap, looks for who maps the file", world.free_for("r:i_mmap"))
    number = next((n for n, domain in enumerate(world.domains) if domain.in_i_mmap), None)
    if number is None:
        return
    if mistaken(world, "truncate-by-links") and not world.domains[number].links:
        return
    world.take(cpu, "r:i_mmap")
    frame = yield from _change_then_flush(world, cpu, number, _rmap_clear(world, cpu, who, number))
    if frame is not None:
        yield Step(f"{who}: lets go of the page that was mapped")
        world.put_frame(frame)
    world.release(cpu, "i_mmap")


def truncate(world: World, cpu: int) -> Ops:
    """ftruncate to nothing.

    :param world: the world
    :param cpu: where it runs
    """
    yield Step("truncate: the file is shorter")
    world.size = 0
    yield from _zap_file(world, cpu, "truncate")
    yield Step("truncate: locks the page, if there is one", world.free_for("page"))
    frame = world.cached
    if frame is not None:
        world.take(cpu, "page")
        if any(domain.pte is not None and domain.pte.frame == frame for domain in world.domains):
            yield from _zap_file(world, cpu, "truncate")
        yield Step("truncate: takes the page out of the page cache")
        world.cached = None
        world.frames[frame].unsaved = False
        world.put_frame(frame)
        world.release(cpu, "page")
    yield Step("truncate: returns")
    world.truncated = True


def reclaim(world: World, cpu: int) -> Ops:
    """``shrink_folio_list()``: unmaps the page, flushes once for the batch, writes the page out, frees it.

    :param world: the world
    :param cpu: where it runs
    """
    yield Step("reclaim: takes the page off its list, locks it", world.free_for("page"))
    frame = world.cached
    if frame is None:
        return
    world.take(cpu, "page")
    world.get_frame(frame)
    page = world.frames[frame]
    yield Step("reclaim: locks i_mmap, looks for who maps the page", world.free_for("r:i_mmap"))
    number = next((n for n, domain in enumerate(world.domains) if domain.in_i_mmap), None)
    unflushed = False
    if number is not None:
        world.take(cpu, "r:i_mmap")
        if mistaken(world, "flush-before-clear"):
            yield from flush_host(world, cpu)
        mapped = yield from _rmap_clear(world, cpu, "reclaim", number, batch=True)
        world.release(cpu, "i_mmap")
        if mapped is not None:
            world.put_frame(frame)
            unflushed = not mistaken(world, "flush-before-clear")
    if page.dirty:
        if unflushed and not mistaken(world, "write-before-batch"):
            yield from flush_host(world, cpu)
            unflushed = False
        yield Step("reclaim: writes the page out")
        page.dirty = False
        page.unsaved = False
    yield Step("reclaim: with no references but its own, takes the page out of the page cache; unlocks it")
    if page.refs == 2 and not page.dirty:
        world.cached = None
        world.put_frame(frame)
    world.release(cpu, "page")
    if unflushed and not mistaken(world, "free-before-batch"):
        yield from flush_host(world, cpu)
        unflushed = False
    yield Step("reclaim: lets go of the page")
    world.put_frame(frame)
    if unflushed:
        yield from flush_host(world, cpu)


def write_back(world: World, cpu: int) -> Ops:
    """``page_mkclean()`` and the write to the disk.

    :param world: the world
    :param cpu: where it runs
    """
    yield Step("writeback: locks the page", world.free_for("page"))
    frame = world.cached
    if frame is None:
        return
    world.take(cpu, "page")
    page = world.frames[frame]
    yield Step("writeback: locks i_mmap and the host's table", world.free_for("r:i_mmap", "ptl:0"))
    world.take(cpu, "r:i_mmap", "ptl:0")

    def change() -> Ops:
        yield Step("writeback: the host's entry is clean and allows no stores")
        pte = world.domains[0].pte
        if pte is not None:
            page.dirty |= pte.dirty
            world.domains[0].pte = pte._replace(writable=False, dirty=False)
        return pte

    yield from _change_then_flush(world, cpu, 0, change())
    world.release(cpu, "i_mmap", "ptl:0")
    if page.dirty:
        yield Step("writeback: writes the page to the disk")
        page.dirty = False
        page.unsaved = False
    yield Step("writeback: unlocks the page")
    world.release(cpu, "page")
