# SPDX-License-Identifier: MIT
"""What must be reached when a page changes: the tables that have it, and the CPUs that hold translations."""

from collections.abc import Iterator

from ptshare.spec.entries import PAGE, Flag
from ptshare.spec.files import File
from ptshare.spec.state import EXECUTE, HOST_BASE, READ, WRITE, Domain, Process, State
from ptshare.spec.tables import Tree

__all__ = [
    "flush",
    "flush_file",
    "guests_lock",
    "mapped",
    "unmap_pages",
    "with_protection",
]


def flush(state: State, process: Process, start: int, end: int) -> None:
    """No CPU that runs the process holds a translation of the range."""
    for cpu in state.cpus:
        if cpu.runs is process:
            cpu.tlb = {at: value for at, value in cpu.tlb.items() if not start <= at < end}


def flush_file(state: State, file: File, first: int, end: int) -> None:
    """No CPU that runs anyone who has these pages mapped holds a translation of them: of a domain these are
    the CPUs of its guests, since nobody ever runs in its host.
    """
    for process in state.processes.values():
        for mapping in process.mappings:
            if mapping.file is file:
                flush(state, process, mapping.address(first), mapping.address(end))


def mapped(state: State, file: File, page: int) -> Iterator[tuple[Tree, int, bool]]:
    """Reverse mapping: each tree that has an entry for a page of a file, the address there, and whether the
    page is locked there. A domain is one tree, however many guests it has.
    """
    for domain in state.domains:
        if domain.file is file and domain.tables.walk(HOST_BASE + page * PAGE):
            yield domain.tables, HOST_BASE + page * PAGE, guests_lock(state, domain, page)
    for process in state.processes.values():
        for mapping in process.mappings:
            address = mapping.address(page)
            own = mapping.file is file and mapping.domain is None
            if own and mapping.start <= address < mapping.end and process.tables.walk(address):
                yield process.tables, address, mapping.locked


def guests_lock(state: State, domain: Domain, page: int) -> bool:
    """Has any guest of a domain locked a page? It stays as long as one has."""
    return any(
        mapping.locked and mapping.domain is domain and mapping.start <= mapping.address(page) < mapping.end
        for process in state.processes.values()
        for mapping in process.mappings
    )


def unmap_pages(state: State, file: File, first: int, end: int) -> None:
    """Away from all page tables, then from all CPUs; after that the frames may be freed."""
    for domain in state.domains:
        if domain.file is file:
            domain.tables.clear(HOST_BASE + first * PAGE, HOST_BASE + end * PAGE)
    for process in state.processes.values():
        for mapping in process.mappings:
            if mapping.file is file and mapping.domain is None:
                low = max(mapping.address(first), mapping.start)
                high = min(mapping.address(end), mapping.end)
                if low < high:
                    process.tables.clear(low, high)
    flush_file(state, file, first, end)


def with_protection(value: int, prot: int) -> int:
    """An entry whose rights are no more than the protection; what writes find missing a fault gives back."""
    value &= ~Flag.WRITABLE
    value = value & ~Flag.NO_EXECUTE if prot & EXECUTE else value | Flag.NO_EXECUTE
    return value & ~Flag.PRESENT if not prot & (READ | WRITE | EXECUTE) else value
