# SPDX-License-Identifier: MIT
"""The two tables, of objects and of processes, from two samples."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ptshare.audit.model import Audit, MappedObject, Process
from ptshare.audit.verdict import verdict
from ptshare.audit.words import command_of, plain
from ptshare.top.sample import Faults, Sample

__all__ = [
    "OBJECTS",
    "PROCESSES",
    "Column",
    "Frame",
    "Key",
    "Row",
    "Value",
    "arrange",
    "compact",
    "fault_rate",
    "frame",
    "growth",
    "matches",
    "rate",
    "signed",
    "total",
]

Value = int | float | str | None
#: What tells an object or a process from others, from one sample to the next.
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    :param name: its heading
    :param meaning: for the help
    :param width: cells; 0: what is left
    :param rank: when there is no room, the column of the highest rank is left out first
    :param show: a value as text
    :param left: it stands at the left of the column
    :param down: the largest is first, as long as the order is not inverted
    :param alarming: a value above 0 is worth a look
    """

    name: str
    meaning: str
    width: int
    rank: int
    show: Callable[[Value], str]
    left: bool = False
    down: bool = True
    alarming: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table.

    :param values: by heading of the column; ``None``: not known, or it cannot be
    :param text: what a search looks at, in small letters
    """

    key: Key
    item: MappedObject | Process
    values: dict[str, Value]
    text: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What is on the screen from one refresh to the next, with what would take long at each key.

    :param former: the sample before; ``None``: it is the first
    :param duplicate: bytes, as the audit has it
    :param saved_now: the same
    """

    sample: Sample
    former: Sample | None
    objects: list[Row]
    processes: list[Row]
    verdict: str
    duplicate: int
    saved_now: int


def compact(value: Value) -> str:
    """Bytes in six cells at most: 512, 28K, 1.5M, 1023G."""
    if value is None:
        return "-"
    assert not isinstance(value, str)
    size, unit = float(value), 0
    while abs(size) >= 1023.5 and unit < 6:
        size /= 1024
        unit += 1
    digits = 0 if round(size, 1) == round(size) or abs(size) >= 99.95 else 1
    return f"{size:.{digits}f}{' KMGTPE'[unit].strip()}"


def signed(value: Value) -> str:
    """As :func:`compact`, with a plus sign."""
    text = compact(value)
    return f"+{text}" if isinstance(value, (int, float)) and value > 0 else text


def rate(value: Value) -> str:
    """A number a second in eight cells at most: 0.5, 12, 123,456, 12.3M."""
    if value is None:
        return "-"
    assert not isinstance(value, str)
    for unit, name in ((1e9, "G"), (1e6, "M")):
        if value >= 0.9999995 * unit:
            return f"{value / unit:.1f}{name}"
    return f"{value:,.0f}" if value >= 9.95 or value == round(value) else f"{value:.1f}"


def _number(value: Value) -> str:
    return "-" if value is None else f"{value:,}"


def _plain_number(value: Value) -> str:
    return "-" if value is None else f"{value}"


def _word(value: Value) -> str:
    return "-" if value is None else str(value)


OBJECTS = (
    Column("TABLES", "page tables that processes spend on it, in all", 6, 0, compact),
    Column("GROWTH", "of these, since the last refresh", 6, 1, signed, alarming=True),
    Column("SHARING", "of these, what MAP_SHARED_PT would save; -: it cannot be shared", 7, 2, compact),
    Column("HUGE", "of these, what huge pages would save; -: it cannot have them", 6, 6, compact),
    Column("NOW", "what shared tables save now", 6, 8, compact),
    Column("MAPPERS", "processes that have it mapped", 7, 3, _number),
    Column("SIZE", "bytes from the first to the last that is mapped", 6, 4, compact),
    Column("KIND", "what it is", 9, 7, _word, left=True, down=False),
    Column("COMMAND", "who spends most on it; +2: and two other names", 15, 5, _word, left=True, down=False),
    Column("OBJECT", "name in /proc/PID/maps", 0, -1, _word, left=True, down=False),
)
PROCESSES = (
    Column("PID", "number of the process", 7, 0, _plain_number, down=False),
    Column("USER", "effective user", 8, 4, _word, left=True, down=False),
    Column("TABLES", "its page tables (VmPTE)", 6, 1, compact),
    Column("GROWTH", "of these, since the last refresh", 6, 2, signed, alarming=True),
    Column("OBJECTS", "of these, of objects that are known", 7, 6, compact),
    Column("OTHERS", "of these, of upper levels and small mappings", 6, 8, compact),
    Column("SHARED", "memory that it maps through shared tables (VmSharedPT)", 6, 7, compact),
    Column("MINFLT/s", "faults without I/O, a second", 8, 3, rate),
    Column("MAJFLT/s", "faults with I/O, a second", 8, 5, rate, alarming=True),
    Column("COMMAND", "command line, or the name", 0, -1, _word, left=True, down=False),
)


def frame(sample: Sample, former: Sample | None) -> Frame:
    """Both tables.

    :param former: the sample before, if there is one
    """
    audit = sample.audit
    return Frame(
        sample,
        former,
        _objects(audit, former.audit if former else None),
        _processes(sample, former),
        verdict(audit),
        audit.duplicate,
        audit.saved_now,
    )


def _objects(audit: Audit, former: Audit | None) -> list[Row]:
    page, granule = audit.host.page, audit.host.granule
    before: dict[Key, int] = {}
    for item in former.objects if former else ():
        before[_object_key(item)] = before.get(_object_key(item), 0) + item.tables
    rows = []
    for item in audit.objects:
        name = plain(item.name) or f"{item.kind} {item.device} inode {item.inode}"
        command = command_of(item)
        if len(item.commands) > 1:
            command += f" +{len(item.commands) - 1}"
        key = _object_key(item)
        can_be_shared = item.obstacle(granule) is None
        values: dict[str, Value] = {
            "TABLES": item.tables * page,
            "GROWTH": None if former is None else (item.tables - before.get(key, 0)) * page,
            "SHARING": item.saved_by_sharing(granule) * page if can_be_shared else None,
            "HUGE": item.saved_by_huge_pages * page or None,
            "NOW": item.saved_now * page,
            "MAPPERS": item.mappers,
            "SIZE": item.size,
            "KIND": item.kind,
            "COMMAND": command,
            "OBJECT": name,
        }
        commands = " ".join(map(plain, item.commands))
        rows.append(Row(key, item, values, f"{name} {item.kind} {commands}".casefold()))
    return sorted(rows, key=lambda row: str(row.values["OBJECT"]))


def _object_key(item: MappedObject) -> Key:
    # Not the name: it changes when the file is removed. But files of huge pages of several sizes may be on
    # devices that the kernel numbers alike.
    return (item.kind, item.device, item.inode, item.shared, item.name if item.kind == "hugetlb" else "")


def _processes(sample: Sample, former: Sample | None) -> list[Row]:
    page = sample.audit.host.page
    before = {process.pid: process for process in former.audit.processes} if former else {}
    seconds = sample.at - former.at if former else 0.0
    rows = []
    for process in sorted(sample.audit.processes, key=lambda process: process.pid):
        stat = sample.stats.get(process.pid)
        old = before.get(process.pid)
        old_stat = former.stats.get(process.pid) if former else None
        same = stat is None or old_stat is None or stat.started == old_stat.started
        faults = old_faults = None
        if stat is not None and old_stat is not None and same:
            faults, old_faults = stat.faults, old_stat.faults
        rates = fault_rate(faults, old_faults, seconds)
        user, line = plain(process.user), plain((stat.line if stat else "").strip())
        command = line or plain(process.command)
        values: dict[str, Value] = {
            "PID": process.pid,
            "USER": user,
            "TABLES": process.vm_pte,
            "GROWTH": process.vm_pte - (old.vm_pte if old and same else 0) if former else None,
            "OBJECTS": process.tables * page if process.read else None,
            "OTHERS": process.unattributed(page) if process.read else None,
            "SHARED": process.shared_pt,
            "MINFLT/s": rates[0],
            "MAJFLT/s": rates[1],
            "COMMAND": command,
        }
        key = (process.pid, stat.started if stat else None)
        text = f"{process.pid} {user} {plain(process.command)} {line}".casefold()
        rows.append(Row(key, process, values, text))
    return rows


def fault_rate(
    now: Faults | None, before: Faults | None, seconds: float
) -> tuple[float, float] | tuple[None, None]:
    """Minor and major faults a second."""
    if now is None or before is None or seconds <= 0:
        return None, None
    return max(0, now.minor - before.minor) / seconds, max(0, now.major - before.major) / seconds


def total(audit: Audit) -> int:
    """Bytes of the page tables that were asked for: of some processes, or of the host."""
    return audit.vm_pte if audit.scope else audit.host.page_tables


def growth(shown: Frame) -> int | None:
    """Bytes by which they have grown since the sample before."""
    return None if shown.former is None else total(shown.sample.audit) - total(shown.former.audit)


def matches(row: Row, wanted: str) -> bool:
    """Does it have one of the texts, which ``|`` separates? Capital letters are as small ones."""
    return any(part in row.text for part in wanted.casefold().split("|") if part) or not wanted.strip("|")


def arrange(rows: Collection[Row], column: Column, down: bool, wanted: str = "") -> Sequence[Row]:
    """The rows in order; those without a value are last.

    :param down: the largest first
    :param wanted: only those that match, see :func:`matches`
    """
    found = [row for row in rows if not wanted or matches(row, wanted)]

    def value(row: Row) -> tuple[float, str]:
        is_text = isinstance(value := row.values[column.name], str)
        return (0.0, value.casefold()) if is_text else (float(value or 0), "")  # type: ignore[union-attr]

    known = sorted((row for row in found if row.values[column.name] is not None), key=value, reverse=down)
    return known + [row for row in found if row.values[column.name] is None]
