# SPDX-License-Identifier: MIT
"""What people read of an audit: the table, the verdict, names that would order the terminal about."""

import csv
import io

import pytest

from made_up import GIB, database, shared_now
from ptshare.audit import rows, text
from ptshare.audit.model import Audit, MappedObject, Process, Unread
from ptshare.audit.verdict import verdict
from ptshare.audit.words import command_of, plain, short

FIFTEEN_HUNDRED = database(1500)


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        (
            FIFTEEN_HUNDRED,
            "23.6 GiB of page tables, 23.4 GiB duplicate, all from postgres on /dev/zero (deleted); "
            "huge_pages=on would free 23.4 GiB; MAP_SHARED_PT would free 23.4 GiB (this kernel does not have "
            "it).",
        ),
        (
            database(1500, shared_tables=0),
            "23.6 GiB of page tables, 23.4 GiB duplicate, all from postgres on /dev/zero (deleted); "
            "huge_pages=on would free 23.4 GiB; MAP_SHARED_PT (ptshare run) would free 23.4 GiB.",
        ),
        (
            shared_now(),
            "139.1 MiB of page tables, 23.4 GiB saved by shared tables, 0 B duplicate: little to gain.",
        ),
        (database(2, 64 << 20), "1.4 MiB of page tables, 128 KiB duplicate: little to gain."),
        (database(1, GIB), "3.1 MiB of page tables, 0 B duplicate: little to gain."),
    ],
)
def test_verdicts(audit: Audit, words: str) -> None:
    assert verdict(audit) == words


def test_of_nobody_there_is_little_to_say() -> None:
    audit = database(1)
    audit.scope, audit.processes, audit.objects, audit.unread = "command nobody\n", [], [], []
    assert verdict(audit) == r"No process to be seen is in all that was asked for: command nobody\n."


def unread(known: int, unseen: int, reason: str = "Permission denied") -> Audit:
    """Few of the processes could be read: of some VmPTE is known, of others nothing."""
    audit = database(1, 4 << 20)
    audit.processes += [Process(9000 + pid, "x", "root", 2 << 20, read=False) for pid in range(known)]
    audit.unread = [Unread(reason, 1 + known + unseen)]
    audit.host.page_tables = audit.vm_pte
    return audit


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        (
            unread(20, 0),
            ", 0 B duplicate in what could be read; how much in all is not known: "
            "21 of 22 processes could not be read; run it as root.",
        ),
        (unread(0, 2, "odd"), "how much in all is not known: 3 of 4 processes could not be read."),
        (database(1, partial=["in a container"]), "is not known: not all processes of the host are seen."),
        (unread(0, 0), ", 0 B duplicate: little to gain."),
    ],
)
def test_what_could_not_be_read_is_no_little(audit: Audit, words: str) -> None:
    assert verdict(audit).endswith(words)


def test_there_may_be_more_than_a_lot() -> None:
    audit = database(1500)
    audit.processes += [Process(9000, "x", "root", GIB, read=False)]
    audit.unread[0].count += 1
    assert verdict(audit).endswith(
        "(this kernel does not have it); perhaps there is more: 2 of 1,502 processes could not be read; "
        "run it as root."
    )


def item(name: str, tables: int, needed: int, kind: str = "file", command: str = "x") -> MappedObject:
    return MappedObject(
        "254:1",
        len(name),
        name,
        kind,  # type: ignore[arg-type]
        "ext4",
        size=GIB,
        mappers=2,
        tables=tables,
        needed=needed,
        commands={command: (2, tables)},
    )


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([item("/a", 1 << 20, 1 << 10)], "all from x on /a; MAP_SHARED_PT would free 4.0 GiB"),
        ([item("/a", 95_000, 5_000), item("/b", 10_000, 5_000)], "nearly all from x on /a;"),
        ([item("/a", 60_000, 5_000), item("/b", 50_000, 5_000)], "most from x on /a;"),
        ([item("/a", 40_000, 1), item("/b", 40_000, 9), item("/c", 40_000, 9)], "156.2 MiB from x on /a;"),
        ([item("/t", 40_000, 1, "tmpfs")], "mounting it with huge=always would free 156.2 MiB;"),
        ([item("/SYSV00000000 (deleted)", 40_000, 1, "sysv")], "SHM_HUGETLB would free 156.2 MiB;"),
        ([item("/memfd:a (deleted)", 40_000, 1, "memfd")], "huge pages would free 156.2 MiB;"),
        ([item("", 40_000, 1, command="")], "all from  on file;"),
    ],
)
def test_what_causes_it_and_what_would_help(items: list[MappedObject], words: str) -> None:
    audit = database(2)
    audit.objects = items
    audit.host.page_tables = 8 * GIB
    assert words in verdict(audit)


def test_of_a_scope_its_own_tables_are_told() -> None:
    audit = database(100)
    audit.scope = "command postgres"
    audit.host.page_tables = 50 * GIB
    assert verdict(audit).startswith("1.6 GiB of page tables, 1.5 GiB duplicate")
    lines = list(text.lines(audit, 5, 0))
    assert "PageTables 50 GiB (78.1% of memory)" in lines
    assert "  1.6 GiB of the processes that were asked for" in lines


def test_the_table() -> None:
    lines = list(text.lines(FIFTEEN_HUNDRED, 15, 2))
    assert lines[0] == "db1, Linux 6.1.0-54-amd64: 1,501 processes"
    assert lines[2] == verdict(FIFTEEN_HUNDRED)
    assert lines[4:8] == [
        "   saved by    saved by        page",
        "    sharing  huge pages      tables  mappers        size  object, by whom",
        "   23.4 GiB    23.4 GiB    23.4 GiB    1,500       8 GiB  /dev/zero (deleted), postgres and 1 other",
        "          -           -       8 KiB        2       2 MiB  "
        r'/srv/\x1b[31mred\nand, "quoted" \xff, a\tb (cannot be shared: private mapping)',
    ]
    assert lines[9:12] == [
        "      VmPTE  of objects      others      pid        user  process",
        "   16.1 MiB      16 MiB      80 KiB     1000    postgres  postgres",
        "   16.1 MiB      16 MiB      80 KiB     1001    postgres  postgres",
    ]
    assert "1 process could not be read: Permission denied: 5 (\\x1b[2J)" in lines
    assert "3 processes ended meanwhile: 77, 78 (sh), ..." in lines
    assert any(line.startswith("  100.0% explained: 23.6 GiB of processes") for line in lines)
    assert lines[-1] == "a page has 4 KiB, a table maps 2 MiB; by maps, pagemap in 1.25 s"
    assert all(line.isprintable() for line in lines)


def test_few_lines() -> None:
    lines = list(text.lines(FIFTEEN_HUNDRED, 0, 0))
    assert "   23.4 GiB    23.4 GiB    23.4 GiB                       2 more" in lines
    assert not any("VmPTE" in line for line in lines)
    empty = database(1)
    empty.objects = []
    assert "nothing large is mapped by those that could be read" in list(text.lines(empty, 5, 5))
    empty.unread = []
    assert "nothing large is mapped" in list(text.lines(empty, 5, 5))


def test_what_is_shared_now() -> None:
    (line,) = (line for line in text.lines(shared_now(), 5, 0) if "/dev/zero" in line)
    assert line.endswith("(shared tables save 23.4 GiB now)")


def test_what_was_not_seen_is_told() -> None:
    audit = database(1, huge_unknown=True, partial=["in a container"], counted=5 << 20)
    audit.unread[0].count = 7
    lines = list(text.lines(audit, 5, 5))
    assert "not all of the host: in a container" in lines
    assert "7 processes could not be read: Permission denied: 5 (\\x1b[2J), ..." in lines
    assert "  5 MiB counted page by page (KPF_PGTABLE)" in lines
    assert any("does not tell huge pages apart" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain name (deleted)", "plain name (deleted)"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\u202eright to left", r"\u202eright to left"),
        ("größe 表", "größe 表"),
        ("\udcff", r"\udcff"),
        (r"back\slash", r"back\slash"),
    ],
)
def test_names_in_one_line(name: str, words: str) -> None:
    assert plain(name) == words


def test_long_names_are_cut_in_the_middle() -> None:
    assert short("/srv/a/very/long/path/to/data.bin", 15) == "/srv/a/…ata.bin"
    assert short("/srv/data.bin", 13) == "/srv/data.bin"
    audit = database(1)
    audit.objects[1].name = "/srv/" + "x" * 300 + "/data.bin"
    (line,) = (line for line in text.lines(audit, 5, 0) if "/data.bin" in line)
    assert len(line) < 160


def test_csv() -> None:
    names, *found = csv.reader(io.StringIO(rows.as_csv(FIFTEEN_HUNDRED), newline=""))
    assert tuple(names) == rows.COLUMNS
    first, second = (dict(zip(names, row, strict=True)) for row in found)
    assert first["name"] == "/dev/zero (deleted)"
    assert (first["mappers"], first["command"], first["shared"]) == ("1500", "postgres", "1")
    assert first["tables_bytes"] == str(1500 * 16 << 20)
    assert second["name"] == r'/srv/\x1b[31mred\nand, "quoted" \xff'
    assert (second["obstacle"], second["saved_by_sharing_bytes"]) == ("private mapping", "0")


def test_who_spends_most() -> None:
    assert command_of(FIFTEEN_HUNDRED.by_saving()[0]) == "postgres"
    assert command_of(item("/a", 1, 1, command="\n")) == r"\n"
    nobody = item("/a", 1, 1)
    nobody.commands = {}
    assert command_of(nobody) == "nobody"
