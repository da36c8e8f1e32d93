# SPDX-License-Identifier: MIT
"""Accesses: what the hardware finds, and the page fault where it finds nothing."""

from ptshare.spec.entries import GIB, GRANULE, PAGE, PMD, PTE, Flag, entry, flags_of, frame_of
from ptshare.spec.files import File
from ptshare.spec.state import EXECUTE, READ, WRITE, Cpu, Mapping, Outcome, Process, State
from ptshare.spec.tables import Full, Tree

__all__ = [
    "LINK_AROUND",
    "access",
    "bring_in",
    "fault",
    "link_warm",
    "map_page",
    "owner",
    "populate",
    "translate",
]

#: Bytes, aligned to as much: what a fault links around itself, where granules are linked one by one.
LINK_AROUND = 16 * GRANULE


def access(system: State, cpu: Cpu, address: int, right: int, value: int = 0) -> Outcome:
    """An instruction of the process that runs on a CPU reads, writes or executes a byte.

    :param right: READ, WRITE or EXECUTE
    :param value: what is written
    """
    process = cpu.runs
    assert process is not None
    faults = 0
    while not _allows(found := translate(cpu, process, address), right):
        faults += 1
        assert faults <= 2, "a fault did not bring what the access needs"
        signal = fault(system, process, address, right)
        if signal:
            return Outcome(signal=signal, faults=faults)
        cpu.tlb.pop(address // PAGE * PAGE, None)
    assert found is not None
    # By the frame, as the hardware goes, not by what is mapped there now.
    file, page = owner(system, frame_of(found))
    if right & WRITE:
        file.written[page] = value
        file.dirty.add(page)
    return Outcome(value=file.written.get(page, 0), faults=faults)


def translate(cpu: Cpu, process: Process, address: int) -> int | None:
    """The entry by which a CPU translates an address: one that it holds, else by a walk, and then it holds
    it."""
    page = address // PAGE * PAGE
    held = cpu.tlb.get(page)
    if held is not None:
        return held
    found = process.tables.walk(page)
    if found is None or not found.value & Flag.PRESENT:
        return None
    cpu.tlb[page] = found.value
    return found.value


def _allows(value: int | None, right: int) -> bool:
    if value is None or not value & Flag.PRESENT:
        return False
    if right & WRITE and not value & Flag.WRITABLE:
        return False
    return not (right & EXECUTE and value & Flag.NO_EXECUTE)


def fault(system: State, process: Process, address: int, right: int) -> str:
    """A page fault: what is needed for the access is in the tables, or a signal. The whole mechanism:

    a guest's fault is the host's fault at the file's place, with the protection in force there, and then the
    link to the table where the page is.

    :returns: the signal; empty: the access can be made
    """
    mapping = process.at(address)
    if mapping is None:
        return "SIGSEGV"
    page = mapping.page(address)
    # What a guest once asked for says nothing; nor does what another mapping of the file may do.
    prot = mapping.protection_at(address)
    host, place = mapping.place(address // PAGE * PAGE)
    tree = host or process.tables
    if right & EXECUTE and host is None and tree.walk(place) is None:
        # An instruction that is not there is read first; that it may not be executed is found at the second
        # fault. A guest's host is told what the fault is for.
        right = READ
    # x86-64 can read whatever is not PROT_NONE.
    if right & ~(prot | (READ if prot else 0)):
        return "SIGSEGV"
    if host is None:
        # Even if nothing will be in it. A host's tables stay, and are made for what is there.
        tree.make(place, PMD)
    if page >= mapping.file.pages:
        return "SIGBUS"
    map_page(tree, place, mapping.file, page, prot, right)
    if mapping.domain is not None:
        _link(process, mapping, address)
    return ""


def map_page(tree: Tree, place: int, file: File, page: int, prot: int, right: int) -> None:
    """The page is in memory and in the tables. An entry is writable only once it was written, so that the
    first store to a clean page is seen.
    """
    (run,) = file.bring_in(page, 1)
    flags = Flag.PRESENT | Flag.USER | Flag.ACCESSED
    if right & WRITE:
        flags |= Flag.WRITABLE | Flag.DIRTY
        file.dirty.add(page)
    if not prot & EXECUTE:
        flags |= Flag.NO_EXECUTE
    before = tree.walk(place)
    if before is not None and prot & WRITE:
        flags |= flags_of(before.value) & (Flag.WRITABLE | Flag.DIRTY)
    tree.set(place, entry(run.frame, flags))


def _link(process: Process, mapping: Mapping, address: int) -> None:
    """By the GiB where that suits the mapping and the file, and the process has no table of its own there;
    else by the granule, and then also those around it that the host has by now. What is linked stays so.
    """
    assert mapping.domain is not None
    if process.tables.linked(address) is not None:
        return
    host = mapping.domain.tables
    gib = address // GIB * GIB
    if gib in _whole_gibs(mapping) and process.tables.table(gib, PMD) is None:
        process.tables.link(gib, PMD, host, mapping.place(gib)[1])
        return
    around = address // LINK_AROUND * LINK_AROUND
    for begin in range(max(around, mapping.start), min(around + LINK_AROUND, mapping.end), GRANULE):
        place = mapping.place(begin)[1]
        if process.tables.linked(begin) is None and host.table(place, PTE) is not None:
            process.tables.link(begin, PTE, host, place)


def _whole_gibs(mapping: Mapping) -> range:
    """Addresses of those that one link can serve."""
    if (mapping.start - mapping.offset) % GIB:
        return range(0)
    return range(-(-mapping.start // GIB) * GIB, mapping.end - GIB + 1, GIB)


def link_warm(process: Process, mapping: Mapping) -> None:
    """What the host has by whole GiBs is linked when a guest comes, by mmap or fork, and takes no fault."""
    if mapping.domain is None:
        return
    host = mapping.domain.tables
    for gib in _whole_gibs(mapping):
        place = mapping.place(gib)[1]
        if host.table(place, PMD) is not None:
            process.tables.link(gib, PMD, host, place)


def populate(system: State, process: Process, start: int, length: int) -> Outcome:
    """Read all of a range, as a scan does."""
    reason, faults = bring_in(system, process, start, start + length, READ, READ | WRITE | EXECUTE)
    return Outcome(signal="SIGBUS" if reason == "SIGBUS" else "SIGSEGV" if reason else "", faults=faults)


def bring_in(
    system: State, process: Process, start: int, end: int, right: int, enough: int
) -> tuple[str, int]:
    """Have all of a range in the tables: whole granules and GiBs in one go, the tables of which are then kept
    as one (:class:`ptshare.spec.tables.Full`).

    :param right: READ, WRITE or EXECUTE
    :param enough: protections, any of which lets it
    :returns: why it ended early, "unmapped", "denied" or a signal, or nothing; and how many faults it took
    """
    address, faults = start, 0
    while address < end:
        mapping = process.at(address)
        if mapping is None:
            return "unmapped", faults
        if not mapping.protection_at(address) & enough:
            return "denied", faults
        step = _bring_in_whole(process, mapping, address, end) if right == READ else 0
        if step:
            faults += 1
        else:
            step = PAGE
            found = process.tables.walk(address)
            if not _allows(found.value if found else None, right):
                faults += 1
                signal = fault(system, process, address, right)
                if signal:
                    return signal, faults
        address += step
    return "", faults


def _bring_in_whole(process: Process, mapping: Mapping, address: int, end: int) -> int:
    """The largest aligned part from an address on that can be had in one go; bytes, 0: none."""
    for level, size in ((PMD, GIB), (PTE, GRANULE)):
        host, place = mapping.place(address)
        if address % size or place % size or address + size > min(end, mapping.end):
            continue
        first, pages = mapping.page(address), size // PAGE
        prot = mapping.protection_at(address)
        if (mapping.domain and mapping.domain.protection) or not prot & READ:
            continue
        if first + pages > mapping.file.pages:
            continue
        tree = host or process.tables
        table = tree.table(place, level)
        if table is None:
            runs = mapping.file.bring_in(first, pages)
            if len(runs) != 1:
                continue
            flags = Flag.PRESENT | Flag.USER | Flag.ACCESSED | (0 if prot & EXECUTE else Flag.NO_EXECUTE)
            tree.fill(place, level, runs[0].frame, flags)
        elif not mapping.domain or not isinstance(table, Full) or not table.flags & Flag.PRESENT:
            continue
        if mapping.domain:
            _link(process, mapping, address)
        return size
    return 0


def owner(system: State, frame: int) -> tuple[File, int]:
    """The file and page whose memory a frame is.

    :raises LookupError: it is free
    """
    for file in system.files:
        for run in file.runs:
            if run.frame <= frame < run.frame + run.count:
                return file, run.page + frame - run.frame
    raise LookupError(f"frame {frame} is free")
