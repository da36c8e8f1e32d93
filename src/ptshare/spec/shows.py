# SPDX-License-Identifier: MIT
"""What the kernel shows: maps, pagemap, smaps, status, meminfo, and /sys/kernel/mm/ptshare.

Of mappings alone: a real process has a stack and libraries besides.
"""

from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from ptshare.spec.entries import PAGE, span
from ptshare.spec.files import File
from ptshare.spec.reach import mapped
from ptshare.spec.state import HOST_BASE, Mapping, Process, State
from ptshare.spec.tables import Counts

__all__ = [
    "Region",
    "Sharing",
    "exclusive",
    "maps",
    "page_tables",
    "present",
    "pss",
    "resident",
    "rss",
    "sharers",
    "sysfs",
    "vm_pte",
    "vm_shared_pt",
]


class Region(NamedTuple):
    """A line of maps.

    :param prot: the protection in force
    :param offset: in the file, bytes
    """

    start: int
    end: int
    prot: int
    offset: int
    file: File


def maps(process: Process) -> list[Region]:
    """/proc/PID/maps, with the protection in force. Neighbours that are equal and continue each other are one
    here, whether or not the kernel has them as one: so join its lines before you compare.
    """
    found: list[Region] = []
    for mapping in process.mappings:
        for one in _parts(mapping):
            last = found[-1] if found else None
            follows = last and (last.end, last.prot, last.file) == (one.start, one.prot, one.file)
            if last and follows and last.offset + last.end - last.start == one.offset:
                found[-1] = last._replace(end=one.end)
            else:
                found.append(one)
    return found


def _parts(mapping: Mapping) -> list[Region]:
    """A mapping, split where the protection in force changes."""
    borders = {mapping.start, mapping.end}
    if mapping.domain:
        first, end = mapping.page(mapping.start), mapping.page(mapping.end)
        for page in mapping.domain.protection:
            borders |= {mapping.address(at) for at in (page, page + 1) if first < at < end}
    order = sorted(borders)
    return [
        Region(low, high, mapping.protection_at(low), mapping.offset + low - mapping.start, mapping.file)
        for low, high in pairwise(order)
    ]


def present(process: Process, address: int) -> bool:
    """Bit 63 of pagemap: there is an entry, even if its protection is PROT_NONE. A read fault of the kernel
    may bring in neighbours that are in memory, too ("fault around"); here it brings one page.
    """
    return process.tables.walk(address // PAGE * PAGE) is not None


def exclusive(state: State, process: Process, address: int) -> bool:
    """Bit 56 of pagemap: nobody else has the page mapped, and no other guest has linked its table."""
    mapping = process.at(address)
    if mapping is None or not present(process, address):
        return False
    times = len(list(mapped(state, mapping.file, mapping.page(address))))
    return times == 1 and sharers(state, mapping, address) == 1


def sharers(state: State, mapping: Mapping, address: int) -> int:
    """How many have linked the table of a page of a guest, itself or the GiB that it is in; of an ordinary
    mapping 1."""
    if mapping.domain is None:
        return 1
    place = HOST_BASE + mapping.page(address) * PAGE
    return sum(
        link.host is mapping.domain.tables and link.address <= place < link.address + span(level + 1)
        for process in state.processes.values()
        for _, level, link in process.tables.links()
    )


def vm_pte(process: Process) -> Counts:
    """VmPTE: a process's own tables, 4 KiB each."""
    return process.tables.counts()


def vm_shared_pt(process: Process) -> int:
    """VmSharedPT, bytes: the granules that it has linked; a linked GiB counts whole."""
    return sum(span(level + 1) for _, level, _ in process.tables.links())


def resident(process: Process) -> int:
    """VmRSS, bytes: each linked granule whole, as well as pages of its own mappings."""
    return vm_shared_pt(process) + PAGE * sum(1 for _ in process.tables.pages())


def rss(process: Process, start: int, end: int) -> int:
    """Rss of smaps, bytes: exact."""
    return PAGE * sum(present(process, address) for address in range(start, end, PAGE))


def pss(state: State, process: Process, start: int, end: int) -> Fraction:
    """Pss of smaps, bytes: a page counts as one of all that have it, and shared tables as many as have linked
    them. The kernel cuts each page to a 4096th of a byte, and the sum to KiB.
    """
    found = Fraction(0)
    for mapping in process.within(start, end):
        for address in range(max(start, mapping.start), min(end, mapping.end), PAGE):
            if present(process, address):
                times = len(list(mapped(state, mapping.file, mapping.page(address))))
                found += Fraction(PAGE, times * sharers(state, mapping, address))
    return found


class Sharing(NamedTuple):
    """/sys/kernel/mm/ptshare"""

    domains: int
    guests: int
    tables: int


def sysfs(state: State) -> Sharing:
    """Domains, guests and tables. Guests are mappings, and a kernel is free to have fewer than here: it joins
    neighbours that continue each other, where advice, locks and seals are the same. The others are exact.
    """
    tables = sum(domain.tables.counts().all for domain in state.domains)
    return Sharing(len(state.domains), sum(domain.guests for domain in state.domains), tables)


def page_tables(state: State) -> int:
    """PageTables of /proc/meminfo, bytes, without the PGDs: each shared table once."""
    own = sum(process.tables.counts().all for process in state.processes.values())
    return PAGE * (own + sysfs(state).tables)
