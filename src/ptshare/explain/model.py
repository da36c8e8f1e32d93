# SPDX-License-Identifier: MIT
"""A script's picture by the model: :mod:`ptshare.spec`."""

import errno
from collections.abc import Iterator

from ptshare.explain.picture import Domain, Entry, Guest, Picture, Process, Table, rights
from ptshare.explain.script import Fork, MakeFile, Map, Plain, Script
from ptshare.spec import entries, faults
from ptshare.spec import system as spec
from ptshare.spec.files import File, OpenFile
from ptshare.spec.tables import Full, Link
from ptshare.spec.tables import Table as SpecTable

__all__ = ["run"]


def run(script: Script) -> tuple[Picture, list[str]]:
    """The picture after a script's last line, and of each of its lines how it went: empty, or the errno or
    signal that came."""
    player = _Player()
    results = [player.step(step) for step in script.steps]
    return player.picture(), results


class _Player:
    def __init__(self) -> None:
        self.system = spec.System(cpus=1)
        self.files: dict[str, File] = {}
        self.processes: dict[str, spec.Process] = {}

    def step(self, step: MakeFile | Map | Fork | Plain) -> str:
        system = self.system
        if isinstance(step, MakeFile):
            self.files[step.name] = system.file(step.name, step.size)
            return ""
        if isinstance(step, Fork):
            self.processes[step.process] = system.fork(self.processes[step.parent])
            return ""
        process = self.processes.get(step.process)
        if process is None:
            process = self.processes[step.process] = system.process()
        if isinstance(step, Map):
            opened = OpenFile(self.files[step.file], writable=not step.readonly)
            # Never over another one: MAP_FIXED_NOREPLACE.
            if process.within(step.address, step.address + step.length):
                return "EEXIST"
            shared = not step.ordinary
            found = system.mmap(
                process, step.address, step.length, step.prot, opened, step.offset, shared_pt=shared
            )
        elif step.call == "exit":
            system.exit(self.processes.pop(step.process))
            return ""
        else:
            found = self._plain(process, step)
        return found.signal or (errno.errorcode[found.errno] if found.errno else "")

    def _plain(self, process: spec.Process, step: Plain) -> spec.Outcome:
        system, cpu = self.system, self.system.cpus[0]
        system.switch(cpu, process)
        if step.call == "read" and step.length:
            return faults.populate(system, process, step.address, step.length)
        if step.call in ("read", "write"):
            right = spec.READ if step.call == "read" else spec.WRITE
            return faults.access(system, cpu, step.address, right, 1)
        if step.call == "mprotect":
            return system.mprotect(process, step.address, step.length, step.prot)
        if step.call == "munmap":
            return system.munmap(process, step.address, step.length)
        return system.madvise(process, step.address, step.length, "DONTNEED")

    def picture(self) -> Picture:
        """How things stand."""
        domains, numbers = [], {}
        for number, domain in enumerate(self.system.domains, 1):
            numbers[id(domain)] = number
            asked, may = rights(domain.access.asked), rights(domain.access.may)
            tables = [
                Table(level, start - spec.HOST_BASE, _key(number, level, start))
                for level, start, link in _below(domain.tables.root, 0)
                if link is None
            ]
            domains.append(Domain(number, domain.file.name, asked, may, False, tables))
        by_tree = {id(domain.tables): numbers[id(domain)] for domain in self.system.domains}
        processes = [
            self._process(name, process, numbers, by_tree) for name, process in self.processes.items()
        ]
        picture = Picture(domains, [process for process in processes if process.guests])
        _count_links(picture)
        return picture

    @staticmethod
    def _process(
        name: str, process: spec.Process, numbers: dict[int, int], by_tree: dict[int, int]
    ) -> Process:
        found = Process(name)
        for mapping in process.mappings:
            if mapping.domain is not None:
                number = numbers[id(mapping.domain)]
                found.guests.append(Guest(mapping.start, mapping.end, mapping.offset, number))
        for level, start, link in _below(process.tables.root, 0):
            if link is not None:
                number = by_tree[id(link.host)]
                found.entries.append(Entry(level, start, _key(number, level, link.address), number))
            elif _above(found, level, start):
                found.entries.append(Entry(level, start, f"{name}:{level}:{start:#x}"))
        found.sort()
        return found


def _key(domain: int, level: int, start: int) -> str:
    return f"domain {domain}:{level}:{start:#x}"


def _above(process: Process, level: int, start: int) -> bool:
    """Does an own table lie above a guest? Others have nothing to do with sharing."""
    end = start + entries.span(level + 1)
    return any(guest.start < end and start < guest.end for guest in process.guests)


def _below(node: "SpecTable | Full", base: int) -> Iterator[tuple[int, int, Link | None]]:
    """Level, first address, and link if it is one, of each table that a table leads to, all the way down."""
    size = entries.span(node.level)
    places = range(entries.ENTRIES) if isinstance(node, Full) else sorted(node.entries)
    if node.level == entries.PTE:
        return
    for at in places:
        child = node.child(at) if isinstance(node, Full) else node.entries[at]
        first = base + at * size
        if isinstance(child, Link):
            yield node.level - 1, first, child
        elif isinstance(child, (SpecTable, Full)):
            yield child.level, first, None
            yield from _below(child, first)


def _count_links(picture: Picture) -> None:
    counts: dict[str, int] = {}
    for process in picture.processes:
        for entry in process.links():
            counts[entry.key] = counts.get(entry.key, 0) + 1
    for domain in picture.domains:
        domain.tables = [table._replace(links=counts.get(table.key, 0)) for table in domain.tables]
