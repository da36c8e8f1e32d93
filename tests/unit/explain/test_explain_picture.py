# SPDX-License-Identifier: MIT
"""The model's picture, how it is drawn, and how it is compared with another one."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ptshare.explain import compare, kernel, model, svg, text
from ptshare.explain.picture import Picture
from ptshare.explain.script import Script
from ptshare.explain.text import Line

RECORDED = Path(__file__).with_name("tables.txt").read_text()
SVG = "{http://www.w3.org/2000/svg}"
TWO = """\
file data 4G
A mmap data 0 2G rw at 1T
A read 1T
B mmap data 2M 4M rw at 2T
B read 2T 4M
"""
GOLDEN = """\
host of data rw- of rwx
  table of PUDs 0
    table of PMDs 0, 1 link
      table of PTEs 0
      table of PTEs 2M, 1 link
      table of PTEs 4M, 1 link
A
  1T to 1T+2G: data rw- of rwx from 0
    own table of PUDs 1T
      link 1T -> table of PMDs from 0
B
  2T to 2T+4M: data rw- of rwx from 2M
    own table of PUDs 2T
      own table of PMDs 2T
        link 2T -> table of PTEs from 2M
        link 2T+2M -> table of PTEs from 4M
"""


def picture(source: str) -> Picture:
    return model.run(Script.parse(source))[0]


def drawn(source: str) -> str:
    return "\n".join(text.written(text.tree(picture(source)))) + "\n"


def test_the_tree() -> None:
    assert drawn(TWO) == GOLDEN


def test_many_alike_are_one_line() -> None:
    lines = drawn(
        "file data 300G\nA mmap data 0 300G rw at 1T\nA read 1T 300G\n"
        "B mmap data 2M 300M rw at 3T\nB read 3T 300M\n"
    )
    assert lines == (
        """\
host of data rw- of rwx
  table of PUDs 0
    table of PMDs 0, 1 link
      table of PTEs 0
      150 tables of PTEs 2M to 302M, 1 link each
      361 tables of PTEs 302M to 1G
    299 tables of PMDs 1G to 300G, 1 link each
      each:
        512 tables of PTEs 1G to 2G
A
  1T to 1T+300G: data rw- of rwx from 0
    own table of PUDs 1T
      300 links 1T to 1T+300G -> table of PMDs from 0
B
  3T to 3T+300M: data rw- of rwx from 2M
    own table of PUDs 3T
      own table of PMDs 3T
        150 links 3T to 3T+300M -> table of PTEs from 2M
"""
    )


def test_addresses_stand_in_a_column() -> None:
    lines = text.written(text.tree(kernel.parse(RECORDED)))
    linked = [line for line in lines if line.endswith("@0x101a6b000")]
    assert [line.partition("@")[0].strip() for line in linked] == [
        "table of PMDs 0, 2 links",
        "link 1T -> table of PMDs from 0",
        "link 1T -> table of PMDs from 0",
    ]
    assert len({line.index("@") for line in lines if "@" in line}) == 1
    assert max(map(len, lines)) <= 80


def test_side_by_side() -> None:
    left = [Line("host"), Line("  PTEs 0, 1 link"), Line("A"), Line("  link")]
    right = [Line("host"), Line("  PTEs 0, 2 links", "@0x1000"), Line("A"), Line("  link", "@0x2"), Line("B")]
    assert list(text.side_by_side(left, right, ("model", "kernel"))) == [
        "model                kernel",
        "host                 host",
        "  PTEs 0, 1 link  |    PTEs 0, 2 links  @0x1000",
        "A                    A",
        "  link                 link             @0x2",
        "                  >  B",
    ]
    assert list(text.side_by_side(right, left, ("model", "kernel")))[-1] == "B                  <"


@pytest.mark.parametrize("source", [lambda: picture(TWO), lambda: kernel.parse(RECORDED)])
def test_svg_has_a_box_per_table(source: Callable[[], Picture]) -> None:
    found = source()
    root = ElementTree.fromstring(svg.draw(found, "a <title> & more"))
    assert root.tag == f"{SVG}svg"
    boxes = [group.get("class") for group in root.iter(f"{SVG}g")]
    entries = [entry for process in found.processes for entry in process.entries if entry.level < 3]
    assert boxes.count("host") == sum(table.level < 3 for domain in found.domains for table in domain.tables)
    assert boxes.count("own") == sum(entry.domain is None for entry in entries)
    assert boxes.count("link") == sum(entry.domain is not None for entry in entries)
    # A curve for each link, and each within the picture.
    curves = [path for path in root.iter(f"{SVG}path") if "C" in path.attrib["d"]]
    assert len(curves) == boxes.count("link")
    height = int(root.attrib["height"])
    assert all(int(box.attrib.get("y", 0)) < height for box in root.iter(f"{SVG}rect"))


def test_no_link_to_another_class() -> None:
    found = picture(TWO + "C mmap data 0 4M r at 1T\nC read 1T\n")
    assert [domain.asked for domain in found.domains] == ["rw-", "r--"]
    keys = [{table.key for table in domain.tables} for domain in found.domains]
    assert not keys[0] & keys[1]
    assert [entry.key in keys[1] for entry in found.processes[2].links()] == [True]


def test_an_ordinary_mapping_has_no_part_in_it() -> None:
    found = picture(TWO + "C mmap data 0 4M rw at 1T ordinary\nC read 1T 4M\n")
    assert [process.name for process in found.processes] == ["A", "B"]


def test_results_of_calls() -> None:
    results = model.run(
        Script.parse(
            "file data 2M\nA mmap data 0 4M r at 1T readonly\nA mprotect 1T 4K rw\nA munmap 1T 4K\n"
            "A write 1T\nA read 1T+2M\nA mmap data 0 2M r at 1T"
        )
    )[1]
    assert results == ["", "", "EACCES", "EINVAL", "SIGSEGV", "SIGBUS", "EEXIST"]


def test_differences() -> None:
    assert compare.differences(picture(TWO), picture(TWO)) == []
    assert compare.differences(picture(TWO), picture(TWO + "B dontneed 2T 2M\n")) == [
        "the model alone: data rw- of rwx: table of PTEs from 2M, links: 1",
        "the model alone: B: table of PTEs from 2T, a link to that of data rw- of rwx from 2M",
        "the kernel alone: data rw- of rwx: table of PTEs from 2M, links: 0",
    ]
    many = compare.differences(picture(TWO), Picture())
    assert many[-1] == "and 4 more"


def test_a_link_to_a_table_of_nobody_is_a_difference() -> None:
    ours = kernel.parse(RECORDED)
    theirs = kernel.parse(
        RECORDED.replace(
            "link level=pte start=0x20000000000 pfn=0x100325",
            "link level=pte start=0x20000000000 pfn=0x100999",
        )
    )
    assert "a table that the host does not have" in "\n".join(compare.differences(ours, theirs))
    assert compare.proof(theirs) == "9 links to 8 tables of 2 hosts; 1 link to tables that no host has"


def test_what_continues_each_other_is_one_guest() -> None:
    """As the kernel merges neighbours."""
    parts = "file data 8M\nA mmap data 0 4M rw at 1T\nA mmap data 4M 4M rw at 1T+4M\nA read 1T 8M\n"
    whole = "file data 8M\nA mmap data 0 8M rw at 1T\nA read 1T 8M\n"
    assert compare.differences(picture(parts), picture(whole)) == []


def test_own_tables_without_links_do_not_count() -> None:
    """The kernel keeps an empty table of PMDs, the model does not."""
    ours, theirs = picture(TWO), picture(TWO)
    theirs.processes[0].entries.append(ours.processes[1].entries[1]._replace(start=(1 << 40) + (1 << 30)))
    assert compare.differences(ours, theirs) == []


def test_a_hosts_tables_without_pages_do_not_count() -> None:
    """The kernel makes a table of PMDs for an access beyond the file's end."""
    theirs = picture(TWO)
    before = text.tree(theirs)
    theirs.domains[0].tables.append(
        theirs.domains[0].tables[1]._replace(start=1 << 30, key="another", links=0)
    )
    assert compare.differences(picture(TWO), theirs) == []
    assert text.tree(theirs) == before


def test_outcomes() -> None:
    script = Script.parse("file data 2M\nA mmap data 0 2M r at 1T\nA write 1T\n")
    assert compare.outcomes(script, ["", "", "SIGSEGV"], ["", "", "EFAULT"]) == []
    assert compare.outcomes(script, ["", "", "SIGSEGV"], ["", "EINVAL", ""]) == [
        "A mmap data 0 2M r at 1T: the model says success, the kernel EINVAL",
        "A write 1T: the model says SIGSEGV, the kernel success",
    ]


def test_the_proof_in_words() -> None:
    assert compare.proof(kernel.parse(RECORDED)) == (
        "10 links to 9 tables of 2 hosts, each at the very address that the host has; 1 table linked by more "
        "than one process, such as 0x101a6b000 by process 65 and process 66"
    )
