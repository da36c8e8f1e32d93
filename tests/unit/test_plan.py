# SPDX-License-Identifier: MIT
"""The arithmetic of ``ptshare plan``, against tables counted one by one and figures known otherwise."""

import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import get_args

import pytest

from ptshare import plan
from ptshare.demo.report import arithmetic
from ptshare.plan import GIB, MIB, PAGE, Levels, Method, PlanError, Region, Tables, Usage
from ptshare.sizes import format_bytes

TIB, PIB = 1 << 40, 1 << 50
ALL = get_args(Method)


def by_method(region: Region, processes: int = 1, levels: Levels = 4) -> dict[str, plan.Estimate]:
    return {each.method: each for each in plan.estimates(region, processes, levels)}


# Figures known otherwise


def test_the_figure_of_300_gib_and_1500_processes() -> None:
    found = by_method(Region(300 * GIB), 1500)
    assert found["ordinary"].own == Tables(pte=153_600, pmd=300, pud=1)
    assert found["ordinary"].in_all == Tables(pte=230_400_000, pmd=450_000, pud=1500)
    assert format_bytes(found["ordinary"].in_all.pte * PAGE) == "878.9 GiB"
    assert found["huge_2m"].in_all == Tables(pmd=450_000, pud=1500)
    assert found["huge_1g"].in_all == Tables(pud=1500)
    assert found["hugetlb_2m_shared"].in_all == Tables(pmd=300, pud=1500)
    assert found["shared_pt_2m"].own == Tables(pmd=300, pud=1)
    assert found["shared_pt_2m"].once == Tables(pte=153_600, pmd=300, pud=1)
    assert found["shared_pt_1g"].own == Tables(pud=1)
    assert found["shared_pt_1g"].once == Tables(pte=153_600, pmd=300, pud=1)
    assert found["shared_pt_1g"].in_all == Tables(pte=153_600, pmd=300, pud=1501)


def test_it_is_what_the_demo_says() -> None:
    found = by_method(Region(300 * GIB), 1500)
    for method in ("ordinary", "shared_pt_1g"):
        assert format_bytes(found[method].in_all.pte * PAGE) in arithmetic()


def test_decimal_gigabytes_are_another_size() -> None:
    found = by_method(Region(300 * 10**9), 1500)["ordinary"]
    # 143051.15 granules.
    assert found.own == Tables(pte=143_052, pmd=280, pud=1)
    assert format_bytes(found.in_all.pte * PAGE) == "818.6 GiB"


def test_five_levels_add_a_table_above() -> None:
    region = Region(600 * GIB)
    for method, four in by_method(region).items():
        five = by_method(region, levels=5)[method]
        assert five.own == four.own._replace(p4d=1)
        assert five.once == (four.once._replace(p4d=1) if method.startswith("shared_pt") else four.once)


def test_the_largest_region() -> None:
    found = by_method(Region(64 * PIB), plan.MAX_PROCESSES, 5)
    assert found["ordinary"].own == Tables(pte=1 << 35, pmd=1 << 26, pud=1 << 17, p4d=1 << 8)
    assert format_bytes(found["ordinary"].in_all.pte * PAGE) == "512 EiB"
    # A host has no room for it.
    assert set(found) == {"ordinary", "huge_2m", "huge_1g", "hugetlb_2m_shared"}


# Tables counted one by one

#: A tree of four entries a table: the same arithmetic, and small enough to count.
FAN = 4
SPANS = {"pte": FAN * PAGE, "pmd": FAN**2 * PAGE, "pud": FAN**3 * PAGE, "p4d": FAN**4 * PAGE}


@pytest.fixture
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    for level, span in SPANS.items():
        monkeypatch.setattr(plan, f"_{level.upper()}_SPAN", span)


def touched(region: Region) -> list[int]:
    """The pages, in full."""
    pages = -(-region.size // PAGE)
    count = math.ceil(pages * region.touched)
    return [n * pages // count for n in range(count)] if region.sparse else list(range(count))


class Walk:
    """What page faults leave in the tables of a process, and in those that exist once."""

    def __init__(self, region: Region, levels: int) -> None:
        self._region, self._levels = region, levels
        self._tables: dict[str, set[tuple[str, int]]] = {"own": set(), "once": set()}

    def add(self, whose: str, at: int, *levels: str) -> None:
        """There is a table of each of these levels for an address."""
        self._tables[whose] |= {(level, at // SPANS[level]) for level in levels}

    def inside(self, at: int, level: str, unit: int) -> bool:
        """All that one table of a level maps around an address is in the mapping, of whole units."""
        end = self._region.start + math.ceil(self._region.size / unit) * unit
        first = at - at % SPANS[level]
        return first >= self._region.start and first + SPANS[level] <= end

    def fault(self, method: str, page: int) -> None:
        at = self._region.start + page * PAGE
        in_file = self._region.offset + page * PAGE
        self.add("own", at, "pud", "p4d")
        if method == "ordinary":
            self.add("own", at, "pmd", "pte")
        elif method == "huge_2m":
            self.add("own", at, "pmd")
            if not self.inside(at, "pte", PAGE):
                self.add("own", at, "pte")
        elif method == "hugetlb_2m_shared":
            self.add("once" if self.inside(at, "pmd", SPANS["pte"]) else "own", at, "pmd")
        elif method != "huge_1g":
            self.add("once", in_file, "pte", "pmd", "pud", "p4d")
            if method == "shared_pt_2m" or not self.inside(at, "pmd", SPANS["pte"]):
                self.add("own", at, "pmd")

    def counted(self, whose: str) -> Tables:
        names = [level for level, _ in self._tables[whose] if level != "p4d" or self._levels == 5]
        return Tables(*(names.count(level) for level in SPANS))


def small_regions() -> Iterator[Region]:
    granule = SPANS["pte"]
    sizes = [*range(PAGE, 26 * PAGE, PAGE), 2 * PAGE + 1, 17 * PAGE - 5, 64 * PAGE, 79 * PAGE, 130 * PAGE]
    places = [(0, 0), (granule, 0), (0, granule), (granule, 5 * granule), (15 * granule, 3 * granule)]
    parts = [Fraction(1), Fraction(1, 100), Fraction(1, 4), Fraction(3, 10), Fraction(2, 3)]
    for size, place, part, sparse in itertools.product(sizes, places, parts, (False, True)):
        yield Region(size, *place, part, sparse)


@pytest.mark.usefixtures("small_tables")
@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("method", ALL)
def test_tables_counted_one_by_one(method: Method, levels: Levels) -> None:
    counted = 0
    for region in small_regions():
        if plan.why_not(method, region, levels) is not None:
            continue
        walk = Walk(region, levels)
        for page in touched(region):
            walk.fault(method, page)
        found = plan.estimate(method, region, 3, levels)
        assert (found.own, found.once) == (walk.counted("own"), walk.counted("once")), region
        assert found.in_all == Tables(
            *(3 * own + once for own, once in zip(found.own, found.once, strict=True))
        )
        counted += 1
    assert counted >= (60 if method == "huge_1g" else 150)


def test_the_real_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the small trees cannot show: that a table of this machine has 512 entries."""
    monkeypatch.setattr(
        sys.modules[__name__], "SPANS", {level: 512**n * PAGE for n, level in enumerate(SPANS, 1)}
    )
    places = [(0, 0), (511 * GIB, 3 * GIB), (256 * TIB - 6 * MIB, 512 * GIB - 6 * MIB)]
    shapes = [(2 * GIB + 6 * MIB + 5, Fraction(1, 300)), (700 * GIB, Fraction(1, 99_999))]
    for method, place, (size, part) in itertools.product(ALL, places, shapes):
        region = Region(size, *place, part, sparse=True)
        if plan.why_not(method, region, 5) is None:
            walk = Walk(region, 5)
            for page in touched(region):
                walk.fault(method, page)
            found = plan.estimate(method, region, 1, 5)
            assert (found.own, found.once) == (walk.counted("own"), walk.counted("once")), (method, region)


# What is touched


def test_a_part_that_is_touched() -> None:
    region = Region(10 * GIB, touched=Fraction(1, 4))
    assert region.touched_pages == region.pages // 4
    assert by_method(region)["ordinary"].own == Tables(pte=1280, pmd=3, pud=1)
    # Spread evenly, one page in four is enough for all tables.
    assert by_method(region._replace(sparse=True))["ordinary"].own == Tables(pte=5120, pmd=10, pud=1)
    # One page in 2048 is in a granule of its own.
    thin = Region(10 * GIB, touched=Fraction(1, 2048), sparse=True)
    assert by_method(thin)["ordinary"].own == Tables(pte=1280, pmd=10, pud=1)


# What cannot be


@pytest.mark.parametrize(
    ("region", "processes", "levels", "words"),
    [
        (Region(0), 1, 4, "wanted a size from 1 byte on, found 0"),
        (Region(-5), 1, 4, "wanted a size from 1 byte on, found -5"),
        (Region(128 * TIB + 1), 1, 4, "wanted a size of at most 128 TiB.*plan with 5 levels"),
        (Region(64 * PIB + 1), 1, 5, "wanted a size of at most 64 PiB.*plan with less"),
        (Region(128 * PIB + 1), 1, 4, "plan with less"),
        (Region(GIB), 0, 4, "wanted a number of processes from 1 to 4,194,304.*found 0"),
        (Region(GIB), -1, 4, "found -1"),
        (Region(GIB), 4_194_305, 4, "found 4,194,305"),
        (Region(GIB, start=MIB), 1, 4, "wanted a start that is a multiple of 2 MiB and less than 512 GiB"),
        (Region(GIB, start=512 * GIB), 1, 4, "less than 512 GiB"),
        (Region(GIB, start=256 * TIB), 1, 5, "less than 256 TiB"),
        (Region(GIB, start=-2 * MIB), 1, 4, "wanted a start"),
        (Region(GIB, offset=PAGE), 1, 4, "wanted an offset that is a multiple of 2 MiB"),
        (Region(GIB, offset=-2 * MIB), 1, 4, "wanted an offset"),
        (Region(GIB, touched=Fraction(0)), 1, 4, "wanted a touched part"),
        (Region(GIB, touched=Fraction(101, 100)), 1, 4, "wanted a touched part"),
        (Region(GIB), 1, 3, "wanted page tables of 4 or 5 levels, found 3"),
    ],
)
def test_what_cannot_be(region: Region, processes: int, levels: Levels, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan.estimates(region, processes, levels)
    with pytest.raises(PlanError, match=words):
        plan.as_json(region, processes, levels)


def test_the_limits_themselves_can_be() -> None:
    assert plan.estimates(Region(128 * TIB), plan.MAX_PROCESSES)
    assert plan.estimates(Region(64 * PIB), 1, 5)
    assert plan.estimates(Region(1), 1)


def test_methods_that_cannot_be_had_for_a_region() -> None:
    def lacking(region: Region) -> set[str]:
        return {method for method in ALL if plan.why_not(method, region)}

    assert lacking(Region(GIB)) == set()
    assert lacking(Region(GIB, 2 * MIB, 2 * MIB)) == {"huge_1g"}
    assert lacking(Region(GIB, 0, 2 * MIB)) == {"huge_1g", "shared_pt_1g"}
    assert lacking(Region(GIB, 2 * MIB, 0)) == {"huge_1g", "shared_pt_1g"}
    # mm/ptshare/mmap.c: the end of the addresses less a GiB, and a slot at their beginning.
    most = 128 * TIB - GIB - 512 * GIB
    assert lacking(Region(most)) == set()
    assert lacking(Region(most + 1)) == {"shared_pt_2m", "shared_pt_1g"}
    assert lacking(Region(GIB, offset=most)) == {"shared_pt_2m", "shared_pt_1g"}
    with pytest.raises(PlanError, match="MAP_SHARED_PT, links of 1 GiB: its start and offset"):
        plan.estimate("shared_pt_1g", Region(GIB, 0, 2 * MIB), 1)


# Words and numbers


@pytest.mark.parametrize(
    ("text", "part"),
    [("100%", 1), ("12.5%", Fraction(1, 8)), ("50", Fraction(1, 2)), ("0.1 %", Fraction(1, 1000))],
)
def test_percentages(text: str, part: Fraction) -> None:
    assert plan.parse_percent(text) == part


@pytest.mark.parametrize("text", ["0", "0%", "-1%", "100.1%", "101", "", "%", "x", "1e1", "nan"])
def test_no_percentages(text: str) -> None:
    with pytest.raises(PlanError, match=r"more than 0 and at most 100.*found"):
        plan.parse_percent(text)


def test_steps() -> None:
    assert plan.process_steps(1) == [1]
    assert plan.process_steps(8) == [1, 2, 4, 8]
    assert plan.process_steps(1500) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1500]


def test_json_has_pages_and_bytes() -> None:
    found = plan.as_json(Region(GIB + 5, 2 * MIB, 2 * MIB), 10)
    assert (found["format"], found["version"]) == ("ptshare-plan", 1)
    methods = {each["method"]: each for each in found["methods"]}
    assert list(methods) == list(ALL)
    ordinary = methods["ordinary"]
    assert ordinary["reason"] is None
    assert ordinary["per_process"]["pages"] == {
        "pte": 513,
        "pmd": 2,
        "pud": 1,
        "p4d": 0,
        "upper": 3,
        "all": 516,
    }
    assert ordinary["in_all"]["bytes"] == {
        level: pages * 10 * 4096 for level, pages in ordinary["per_process"]["pages"].items()
    }
    assert methods["huge_1g"]["reason"]
    assert methods["huge_1g"]["in_all"] is None


# What was found in use


def test_what_was_found_is_planned_as_its_tables_show() -> None:
    rows = [
        Usage("half", 10 * GIB, 100, 100 * 2560),
        Usage("all, and not where a table begins", GIB, 10, 10 * 513),
        Usage("nothing", GIB, 10, 0),
    ]
    half, whole, nothing = plan.plan_usage(rows)
    assert half.region == Region(10 * GIB, touched=Fraction(1, 2))
    found = {each.method: each for each in half.estimates}
    assert found["ordinary"].in_all.pte == 100 * 2560
    assert found["shared_pt_1g"].in_all == Tables(pte=2560, pmd=5, pud=101)
    assert whole.region == Region(GIB)
    assert (nothing.usage, nothing.estimates) == (rows[2], [])
    for bad in (Usage("", 0, 1, 1), Usage("", GIB, 0, 1), Usage("", GIB, 1, -1)):
        with pytest.raises(PlanError, match="wanted"):
            plan.plan_usage([bad])


def test_it_is_quick_to_import() -> None:
    """Nothing of the project but its constants, and nothing that draws."""
    code = "import sys; import ptshare.plan; print(*sys.modules)"
    before = "import sys; import ptshare; print(*sys.modules)"
    loaded = [
        set(
            subprocess.run(
                [sys.executable, "-c", each], capture_output=True, text=True, check=True
            ).stdout.split()
        )
        for each in (code, before)
    ]
    new = loaded[0] - loaded[1]
    assert {name for name in new if name.startswith("ptshare")} == {"ptshare.plan", "ptshare.sizes"}
    assert not {name for name in new if name.partition(".")[0] in ("matplotlib", "numpy", "argparse")}
