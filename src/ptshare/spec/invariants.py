# SPDX-License-Identifier: MIT
"""What holds after each step, whatever the steps were."""

from collections.abc import Iterator

from ptshare.spec import shows
from ptshare.spec.entries import GIB, GRANULE, PAGE, PMD, Flag, frame_of, span
from ptshare.spec.files import File
from ptshare.spec.state import EXECUTE, HOST_BASE, HOST_BYTES, WRITE, Mapping, Process, State
from ptshare.spec.tables import Link, Tree

__all__ = ["Locks", "broken"]


def broken(state: State) -> Iterator[str]:
    """What does not hold, in words; nothing: all does."""
    yield from _guests(state)
    yield from _hosts(state)
    for process in state.processes.values():
        yield from _mappings(process)
        yield from _entries(process)
        yield from _links(state, process)
        yield from _own_tables(process)
    for number, cpu in enumerate(state.cpus):
        if cpu.runs is None and cpu.tlb:
            yield f"CPU {number} runs nobody and holds translations"
        if cpu.runs is not None:
            if cpu.runs.pid not in state.processes:
                yield f"CPU {number} runs a process that has ended"
            yield from _held(number, cpu.runs, cpu.tlb)
    yield from _counts(state)


def _guests(state: State) -> Iterator[str]:
    """A domain is there exactly as long as it has guests; there is one for each file and class."""
    counts: dict[int, int] = {}
    for process in state.processes.values():
        for mapping in process.mappings:
            if mapping.domain is not None:
                counts[id(mapping.domain)] = counts.get(id(mapping.domain), 0) + 1
                if mapping.domain not in state.domains:
                    yield f"process {process.pid} is a guest of a domain that has gone"
    for domain in state.domains:
        found = counts.get(id(domain), 0)
        if found != domain.guests or not found:
            yield f"the domain of {domain.file.name} counts {domain.guests} guests and has {found}"
    if len({(id(domain.file), domain.access) for domain in state.domains}) != len(state.domains):
        yield "there are two domains of one file and class"


def _hosts(state: State) -> Iterator[str]:
    """A host has the pages of its file, each at its place, and nothing of another's."""
    for domain in state.domains:
        whose = f"the host of {domain.file.name}, {domain.access},"
        for address, value in domain.tables.pages():
            page = (address - HOST_BASE) // PAGE
            prot = domain.protection_of(page) & domain.access.may
            if domain.access.mdwe and not domain.access.asked & EXECUTE:
                prot &= ~EXECUTE
            yield from _entry(whose, address, value, domain.file, page, prot)
        if any(domain.tables.links()):
            yield f"the host of {domain.file.name} has a link"
        if domain.access.mdwe and any(prot & WRITE and prot & EXECUTE for prot in domain.protection.values()):
            yield f"the host of {domain.file.name} has memory that is writable and executable"


def _mappings(process: Process) -> Iterator[str]:
    """They do not overlap; a guest is whole granules, of what a host can map, and of its file's class."""
    end = 0
    for mapping in process.mappings:
        where = f"process {process.pid} at {mapping.start:#x}"
        if mapping.start < end or mapping.length <= 0:
            yield f"{where}: it overlaps the one before, or is empty"
        end = mapping.end
        if mapping.prot & ~mapping.may:
            yield f"{where}: it has more rights than its file gave it"
        if not mapping.domain:
            continue
        if (mapping.start | mapping.length | mapping.offset) % GRANULE:
            yield f"{where}: a guest with a part of a granule"
        if mapping.offset + mapping.length > HOST_BYTES:
            yield f"{where}: a guest beyond what a host maps"
        if mapping.file is not mapping.domain.file or mapping.may != mapping.domain.access.may:
            yield f"{where}: a guest of another file's or class's domain"
        if mapping.key:
            yield f"{where}: a guest with a protection key"


def _entry(whose: str, address: int, value: int, file: File, page: int, prot: int) -> Iterator[str]:
    """An entry leads to the page that belongs there, with no more rights than are in force."""
    if file.frame(page) != frame_of(value):
        yield f"{whose} at {address:#x}: frame {frame_of(value)} is not that of page {page}"
    if not value & Flag.PRESENT:
        return
    if value & Flag.WRITABLE and not prot & WRITE:
        yield f"{whose} at {address:#x}: page {page} can be written"
    if not value & Flag.NO_EXECUTE and not prot & EXECUTE:
        yield f"{whose} at {address:#x}: page {page} can be executed"
    if value & Flag.DIRTY and page not in file.dirty:
        yield f"{whose} at {address:#x}: page {page} is dirty, and the file does not know"


def _entries(process: Process) -> Iterator[str]:
    """Entries of its own are those of its ordinary mappings."""
    whose = f"process {process.pid}"
    mapping = None
    for address, value in process.tables.pages():
        if mapping is None or address >= mapping.end:
            mapping = process.at(address)
        if mapping is None or mapping.domain is not None:
            yield f"{whose} at {address:#x}: an entry of its own"
        else:
            yield from _entry(whose, address, value, mapping.file, mapping.page(address), mapping.prot)


def _links(state: State, process: Process) -> Iterator[str]:
    """A host's tables can be reached by its domain, and by links in guests, whole, to their places."""
    hosts = [domain.tables for domain in state.domains]
    for address, level, link in process.tables.links():
        where = f"the link of process {process.pid} at {address:#x}"
        covered = address
        while covered < address + span(level + 1):
            # Advice can have split the mapping since: the link that was made leads to the same.
            mapping = process.at(covered)
            if mapping is None or mapping.domain is None:
                yield f"{where} is in no guest as a whole"
                break
            yield from _leads_right(where, mapping, covered, link, covered - address)
            covered = mapping.end
        if link.host not in hosts:
            yield f"{where} leads to a host that has gone"
        elif link.host.table(link.address, level) is None:
            yield f"{where} leads to a table that is not there"


def _leads_right(where: str, mapping: Mapping, address: int, link: Link, distance: int) -> Iterator[str]:
    host, place = mapping.place(address)
    if link.host is not host:
        yield f"{where} leads to another host"
    elif link.address + distance != place:
        yield f"{where} leads to another place of the file"


def _own_tables(process: Process) -> Iterator[str]:
    """It has no table of its own where nothing of it is mapped, and none of PTEs where guests alone are."""
    for address, level in process.tables.tables():
        found = process.within(address, address + span(level + 1))
        if not found:
            yield f"process {process.pid} has a table at {address:#x} in which nothing is mapped"
        elif level < PMD and all(one.domain for one in found):
            yield f"process {process.pid} has entries of its own for a guest, at {address:#x}"


def _held(number: int, process: Process, tlb: dict[int, int]) -> Iterator[str]:
    """What a CPU holds is what a walk finds, with no more rights."""
    for address, value in tlb.items():
        found = process.tables.walk(address)
        if found is None or not found.value & Flag.PRESENT or frame_of(found.value) != frame_of(value):
            yield f"CPU {number} holds a translation of {address:#x} that the tables do not have"
        elif value & Flag.WRITABLE & ~found.value or ~value & found.value & Flag.NO_EXECUTE:
            yield f"CPU {number} holds rights to {address:#x} that the tables do not give"


class Locks:
    """What holds from one step to the next: a page that was locked where it was mapped stays in memory, as
    long as anyone still has it locked there, unless its content goes.
    """

    def __init__(self) -> None:
        self._before: list[tuple[Tree, File, int, set[int]]] = []

    def broken(self, state: State) -> Iterator[str]:
        """What does not hold; to be asked after each step."""
        for tree, file, forgotten, pages in self._before:
            if file.forgotten != forgotten:
                continue
            windows = [one for owner, one in self._locked(state) if owner is tree and one.file is file]
            for page in sorted(pages):
                locked = any(one.start <= one.address(page) < one.end for one in windows)
                if locked and file.frame(page) is None:
                    yield f"page {page} of {file.name} is locked, and not in memory any more"
        self._before = []
        for tree, mapping in self._locked(state):
            host, low = mapping.place(mapping.start)
            pages = {
                mapping.page(mapping.start + address - low)
                for address, _ in (host or tree).pages(low, low + mapping.length)
            }
            self._before.append((tree, mapping.file, mapping.file.forgotten, pages))

    @staticmethod
    def _locked(state: State) -> Iterator[tuple[Tree, Mapping]]:
        """Mappings that are locked, and the tables that have their entries."""
        for process in state.processes.values():
            for mapping in process.mappings:
                if mapping.locked:
                    yield mapping.domain.tables if mapping.domain else process.tables, mapping


def _counts(state: State) -> Iterator[str]:
    """What is shown agrees with what there is."""
    shown = shows.sysfs(state)
    guests = [one for process in state.processes.values() for one in process.mappings if one.domain]
    if (shown.domains, shown.guests) != (len({id(one.domain) for one in guests}), len(guests)):
        yield f"{shown.domains} domains and {shown.guests} guests are shown"
    trees = [process.tables for process in state.processes.values()] + [one.tables for one in state.domains]
    if shows.page_tables(state) != PAGE * sum(1 for tree in trees for _ in tree.tables()):
        yield f"PageTables shows {shows.page_tables(state)} bytes"
    if not guests and shown.tables:
        yield "tables are left after the last guest"
    for process in state.processes.values():
        sizes = {GRANULE: 0, GIB: 0}
        for address, level, _ in process.tables.links():
            sizes[span(level + 1)] += 1
            mapping = process.at(address)
            if mapping and not shows.sharers(state, mapping, address):
                yield f"process {process.pid} is no sharer of the table that it has linked at {address:#x}"
        if shows.vm_shared_pt(process) != sum(size * count for size, count in sizes.items()):
            yield f"VmSharedPT of process {process.pid} shows {shows.vm_shared_pt(process)} bytes"
