# SPDX-License-Identifier: MIT
"""Do the model and the kernel give the same picture? And do equal addresses prove that tables are shared?"""

from collections.abc import Iterator, Sequence

from ptshare.explain.picture import LEVELS, PUDS, Domain, Guest, Picture, Process, leading_to_links, with_ptes
from ptshare.explain.script import Script, say_place

__all__ = ["differences", "outcomes", "proof"]

_SHOWN = 10


def differences(model: Picture, kernel: Picture) -> list[str]:
    """What one has and the other has not, in words; addresses of tables do not count, and neither do upper
    tables that lead to nothing.
    """
    ours, theirs = list(_facts(model)), list(_facts(kernel))
    missing, extra = set(theirs), set(ours)
    found = [f"the model alone: {fact}" for fact in ours if fact not in missing]
    found += [f"the kernel alone: {fact}" for fact in theirs if fact not in extra]
    if len(found) > _SHOWN:
        found[_SHOWN:] = [f"and {len(found) - _SHOWN} more"]
    return found


def _facts(picture: Picture) -> Iterator[str]:
    for domain in picture.domains:
        yield f"domain {domain.name}"
        for table in with_ptes(domain.tables):
            where = f"{domain.name}: {_table(table.level)} from {say_place(table.start)}"
            yield f"{where}, links: {table.links}"
    for process in picture.processes:
        for guest in _merged(process.guests):
            window = f"{say_place(guest.start)} to {say_place(guest.end)}"
            yield f"{process.name}: {window} is {_of(picture, guest.domain)} from {say_place(guest.offset)}"
        yield from _entries(picture, process)


def _entries(picture: Picture, process: Process) -> Iterator[str]:
    targets = {
        (domain.number, table.key): f"{domain.name} from {say_place(table.start)}"
        for domain in picture.domains
        for table in domain.tables
    }
    for entry in leading_to_links(process.entries):
        if entry.level > PUDS:
            continue
        where = f"{process.name}: {_table(entry.level)} from {say_place(entry.start)}"
        if entry.domain is None:
            yield f"{where}, its own"
        else:
            target = targets.get((entry.domain, entry.key), "a table that the host does not have")
            yield f"{where}, a link to that of {target}"


def _table(level: int) -> str:
    return f"table of {LEVELS[level].upper()}s"


def _of(picture: Picture, number: int) -> str:
    return picture.domain(number).name


def _merged(guests: Sequence[Guest]) -> list[Guest]:
    """Neighbours that continue each other are one mapping to the kernel."""
    merged: list[Guest] = []
    for guest in sorted(guests):
        before = merged[-1] if merged else None
        if (
            before is not None
            and (before.end, before.domain) == (guest.start, guest.domain)
            and before.offset + before.end - before.start == guest.offset
        ):
            merged[-1] = before._replace(end=guest.end)
        else:
            merged.append(guest)
    return merged


def outcomes(script: Script, model: Sequence[str], kernel: Sequence[str]) -> list[str]:
    """The calls that ended differently. A signal and EFAULT are the same: see :mod:`ptshare.explain.live`."""
    found = []
    for line, ours, theirs in zip(script.lines, model, kernel, strict=True):
        if ("EFAULT" if ours.startswith("SIG") else ours) != theirs:
            found.append(f"{line}: the model says {ours or 'success'}, the kernel {theirs or 'success'}")
    return found


def proof(kernel: Picture) -> str:
    """What the addresses say, in a sentence."""
    shared = kernel.shared()
    hosts = {(domain.number, table.key) for domain in kernel.domains for table in domain.tables}
    links = [(entry.domain, entry.key) for process in kernel.processes for entry in process.links()]
    astray = sum(link not in hosts for link in links)
    several = [one for one in shared if len(one.processes) > 1]
    said = (
        f"{_count(len(links) - astray, 'link')} to {_count(len(shared), 'table')} of {_hosts(kernel.domains)}"
    )
    if astray:
        return f"{said}; {_count(astray, 'link')} to tables that no host has"
    said += ", each at the very address that the host has"
    if several:
        first = several[0]
        said += f"; {_count(len(several), 'table')} linked by more than one process, "
        said += f"such as {first.table.key} by "
        said += " and ".join(first.processes[:2])
        if len(first.processes) > 2:
            said += f" and {len(first.processes) - 2} more"
    return said


def _hosts(domains: Sequence[Domain]) -> str:
    return _count(len(domains), "host")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
