# SPDX-License-Identifier: MIT
"""What the CPUs of the model see and change, and what must hold of it after each step.

One file of one page, one granule, so one table of PTEs with one entry. Guests are the mms A, B and C; "-" is
an mm that has nothing to do with it. Locks are held by CPUs.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Domain", "Frame", "Guest", "Pte", "Translation", "World", "mistaken"]

OTHER = "-"


class Pte(NamedTuple):
    """The entry of a host's table of PTEs."""

    frame: int
    writable: bool
    dirty: bool


class Translation(NamedTuple):
    """What a TLB holds of it, tagged with the mm."""

    frame: int
    writable: bool
    dirty: bool


@dataclass(slots=True)
class Frame:
    """A page of memory. ``unsaved``: something was stored in it that no disk has."""

    refs: int = 1
    dirty: bool = False
    unsaved: bool = False
    freed: bool = False


@dataclass(slots=True)
class Guest:
    """An mm with a window on the file. ``present``: the window is in the mm's tree, so faults find it."""

    present: bool = False
    domain: int | None = None
    link: int | None = None
    gone: bool = False  # its munmap has returned


@dataclass(slots=True)
class Domain:
    """A host mm: its table, its entry, the protection in force, and who shares it."""

    guests_ref: int = 0
    guests: set[str] = field(default_factory=set)
    hashed: bool = True
    in_i_mmap: bool = True
    notified: bool = True  # the notifier that flushes the guests' CPUs
    table: str = "none"  # then "there", then "freed"
    links: int = 0  # pt_share_count of the table
    pte: Pte | None = None
    writable: bool = True
    batched: bool = False  # an entry was cleared by reclaim, which has not flushed yet


class World:
    """The whole.

    :param mistake: which mistake the operations make; empty for none
    """

    def __init__(self, mistake: str = "") -> None:
        self.mistake = mistake
        self.guests = {mm: Guest() for mm in "ABC"}
        self.domains: list[Domain] = []
        self.frames: list[Frame] = []
        self.cached: int | None = None  # the page in the page cache
        self.size = 1
        self.loaded: dict[int, str] = {}
        self.masks: dict[str, set[int]] = {mm: set() for mm in "ABC"}
        self.guest_cpus: set[int] = set()
        self.generation = dict.fromkeys("ABC", 0)
        self.caught_up: dict[tuple[int, str], int] = {}
        self.tlb: dict[tuple[int, str], Translation] = {}
        self.links_cached: dict[tuple[int, str], int] = {}
        self.busy: dict[int, str] = {}
        self.writers: dict[str, int] = {}
        self.readers: dict[str, frozenset[int]] = {}
        self.read_only_promised = False
        self.truncated = False
        self.finding: str | None = None

    # How it is at first.

    def add_domain(self, *guests: str, table: bool = False) -> None:
        """The domain of the file, with these guests.

        :param guests: the mms
        :param table: whether the host has its table already
        """
        domain = Domain(len(guests), set(guests), table="there" if table else "none")
        self.domains.append(domain)
        for mm in guests:
            self.guests[mm].present = True
            self.guests[mm].domain = len(self.domains) - 1

    def cache_page(self, *, mapped: bool = False, writable: bool = True, dirty: bool = False) -> None:
        """The page of the file is in memory.

        :param mapped: the host maps it
        :param writable: and its entry allows stores
        :param dirty: a store was made by way of it
        """
        self.frames.append(Frame(1 + mapped, unsaved=dirty))
        self.cached = len(self.frames) - 1
        if mapped:
            self.domains[0].table = "there"
            self.domains[0].pte = Pte(self.cached, writable, dirty)

    def link(self, mm: str) -> None:
        """A guest has linked the table before.

        :param mm: the guest
        """
        self.guests[mm].link = self.guests[mm].domain
        self.domains[0].links += 1

    def run(self, cpu: int, mm: str, *, warm: bool = False) -> None:
        """A CPU runs in an mm.

        :param cpu: the CPU
        :param mm: the mm
        :param warm: and has the page's translation, and the link, in its TLB
        """
        self.loaded[cpu] = mm
        if mm == OTHER:
            return
        self.masks[mm].add(cpu)
        self.caught_up[cpu, mm] = 0
        if self.guests[mm].domain is not None:
            self.guest_cpus.add(cpu)
        if warm:
            pte = self.domains[0].pte
            assert pte is not None
            self.tlb[cpu, mm] = Translation(*pte)
            self.links_cached[cpu, mm] = 0

    # Locks. The one who takes one says what he waits for, then calls ``take`` in the same step.

    def free_for(self, *locks: str) -> Callable[[], bool]:
        """What a step waits for that takes locks. ``r:NAME`` is for reading.

        :param locks: their names
        """
        return lambda: all(self.is_free(lock) for lock in locks)

    def is_free(self, lock: str) -> bool:
        """Whether a lock can be had now.

        :param lock: its name
        """
        name = lock.removeprefix("r:")
        if name in self.writers:
            return False
        return lock.startswith("r:") or not self.readers.get(name)

    def take(self, cpu: int, *locks: str) -> None:
        """Take locks that are free.

        :param cpu: who takes them
        :param locks: their names
        """
        for lock in locks:
            assert self.is_free(lock)
            name = lock.removeprefix("r:")
            if lock.startswith("r:"):
                self.readers[name] = self.readers.get(name, frozenset()) | {cpu}
            else:
                self.writers[name] = cpu

    def release(self, cpu: int, *locks: str) -> None:
        """Let go of locks.

        :param cpu: who holds them
        :param locks: their names, with no ``r:``
        """
        for name in locks:
            if self.writers.get(name) == cpu:
                del self.writers[name]
            else:
                left = self.readers[name] - {cpu}
                self.readers[name] = left
                if not left:
                    del self.readers[name]

    def interruptible(self, cpu: int) -> Callable[[], bool]:
        """An interrupt is taken between instructions, and when interrupts are on.

        :param cpu: the CPU
        """
        return lambda: cpu not in self.busy

    def interrupted(self, cpu: int) -> bool:
        """In the handler of a flush a CPU does nothing else.

        :param cpu: the CPU
        """
        return self.busy.get(cpu) == "handler"

    # Counts.

    def find(self, what: str) -> None:
        """Something is wrong; the first finding counts.

        :param what: in words
        """
        self.finding = self.finding or what

    def get_frame(self, frame: int) -> None:
        """One more reference to a page.

        :param frame: its number
        """
        if self.frames[frame].freed:
            self.find(f"a reference is taken to page {frame}, which is free")
        self.frames[frame].refs += 1

    def put_frame(self, frame: int) -> None:
        """One reference fewer; without any the page is freed.

        :param frame: its number
        """
        page = self.frames[frame]
        page.refs -= 1
        if page.refs < 0:
            self.find(f"the count of references to page {frame} is negative")
        if page.refs == 0:
            page.freed = True
            if page.unsaved and not self.truncated:
                self.find(f"page {frame} is freed, and what was stored in it is on no disk")

    def usable(self, cpu: int, mm: str) -> bool:
        """Whether a CPU can use translations of an mm before it drops them: it runs in it, or it would find
        them when it switches to it. In the handler of a flush it runs nothing, and cannot switch.

        :param cpu: the CPU
        :param mm: the mm
        """
        if self.loaded[cpu] == mm:
            return True
        return self.busy.get(cpu) != "handler" and self.caught_up.get((cpu, mm), 0) == self.generation[mm]

    # What must hold.

    def key(self) -> Hashable:
        """All of it that decides what can follow."""
        return (
            tuple((g.present, g.domain, g.link, g.gone) for g in self.guests.values()),
            tuple(
                (
                    d.guests_ref,
                    frozenset(d.guests),
                    d.hashed,
                    d.in_i_mmap,
                    d.notified,
                    d.table,
                    d.links,
                    d.pte,
                    d.writable,
                    d.batched,
                )
                for d in self.domains
            ),
            tuple((f.refs, f.dirty, f.unsaved, f.freed) for f in self.frames),
            (self.cached, self.size, self.read_only_promised, self.truncated, self.finding),
            frozenset(self.loaded.items()),
            tuple(frozenset(mask) for mask in self.masks.values()),
            frozenset(self.guest_cpus),
            tuple(self.generation.values()),
            frozenset(self.caught_up.items()),
            frozenset(self.tlb.items()),
            frozenset(self.links_cached.items()),
            frozenset(self.busy.items()),
            frozenset(self.writers.items()),
            frozenset(self.readers.items()),
        )

    def wrong(self) -> str | None:
        """What does not hold after a step."""
        return self.finding or self._wrong_tables() or self._wrong_tlbs()

    def _wrong_tables(self) -> str | None:
        for number, domain in enumerate(self.domains):
            if domain.guests_ref < 0:
                return f"the count of guests of domain {number} is negative"
            if domain.table == "freed" and domain.guests:
                return f"the table is freed, and {', '.join(sorted(domain.guests))} is a guest still"
            linked = sum(guest.link == number for guest in self.guests.values())
            if domain.links < linked:
                return f"{linked} link to the table, and its count of links is {domain.links}"
            if domain.pte is not None:
                if self.frames[domain.pte.frame].freed:
                    return f"the host's entry maps page {domain.pte.frame}, which is free"
                if self.read_only_promised and domain.pte.writable:
                    return "mprotect has returned, and the host's entry allows stores"
                if self.truncated:
                    return "truncate has returned, and the host maps a page beyond the end of the file"
        for mm, guest in self.guests.items():
            if guest.link is not None and self.domains[guest.link].table == "freed":
                return f"{mm} links to a table that is freed"
            if guest.link is not None and guest.gone:
                return f"munmap of {mm} has returned, and its link stands"
        return None

    def _wrong_tlbs(self) -> str | None:
        for (cpu, mm), translation in self.tlb.items():
            if not self.usable(cpu, mm):
                continue
            if self.frames[translation.frame].freed:
                return f"CPU {cpu} holds a translation of {mm} to page {translation.frame}, which is free"
            if self.read_only_promised and translation.writable:
                return f"mprotect has returned, and CPU {cpu} holds a translation of {mm} that allows stores"
            if self.truncated:
                return f"truncate has returned, and CPU {cpu} holds a translation of {mm} beyond the end"
            if self.guests[mm].gone:
                return f"munmap of {mm} has returned, and CPU {cpu} holds a translation of it"
        for (cpu, mm), table in self.links_cached.items():
            if self.usable(cpu, mm) and self.domains[table].table == "freed":
                return f"CPU {cpu} holds a link of {mm} to a table that is freed"
        return None

    def wrong_at_end(self) -> str | None:
        """What does not hold when all CPUs are done."""
        for number, domain in enumerate(self.domains):
            guests = sum(guest.domain == number for guest in self.guests.values())
            if domain.guests_ref != guests:
                return f"domain {number} has {guests} guests, and counts {domain.guests_ref}"
            if not guests and (domain.table == "there" or domain.in_i_mmap or domain.hashed):
                return f"domain {number} has no guests, and was not freed"
            linked = sum(guest.link == number for guest in self.guests.values())
            if domain.links != linked:
                return f"{linked} link to the table, and its count of links is {domain.links}"
        for number, page in enumerate(self.frames):
            mapped = [d.pte for d in self.domains if d.pte is not None and d.pte.frame == number]
            if page.refs != len(mapped) + (self.cached == number):
                return f"page {number} has {page.refs} references, of which some are nobody's"
            if page.unsaved and not page.freed and not page.dirty and not any(pte.dirty for pte in mapped):
                return f"a store to page {number} is lost: no disk has it, and nothing says that it is dirty"
        if self.writers or self.readers or self.busy:
            return "somebody is done, and holds a lock"
        return None


def mistaken(world: World, mistake: str) -> bool:
    """Is this the mistake to make?"""
    return world.mistake == mistake
