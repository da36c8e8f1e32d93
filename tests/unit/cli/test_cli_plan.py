# SPDX-License-Identifier: MIT
"""The command ``ptshare plan``: options, exit status, what is printed where."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from made_up import database
from ptshare import plan
from ptshare.audit import snapshot
from ptshare.cli import main

THE_CASE = ["plan", "--size", "300GiB", "--processes", "1500"]


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(THE_CASE) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("1,500 processes that map 300 GiB (322,122,547,200 bytes) and touch all of it\n")
    lines = {re.split(r"  +", line)[0]: re.split(r"  +", line)[1:] for line in out.splitlines()[:10]}
    assert lines["method"] == ["PTE tables", "upper levels", "PTE tables", "upper levels", "together"]
    assert lines["ordinary pages of 4 KiB"] == ["600 MiB", "1.2 MiB", "878.9 GiB", "1.7 GiB", "880.6 GiB"]
    assert lines["transparent huge pages of 2 MiB"] == ["0 B", "1.2 MiB", "0 B", "1.7 GiB", "1.7 GiB"]
    assert lines["hugetlb pages of 1 GiB"] == ["0 B", "4 KiB", "0 B", "5.9 MiB", "5.9 MiB"]
    assert lines["hugetlb 2 MiB, shared by GiBs"] == ["0 B", "4 KiB", "0 B", "7.0 MiB", "7.0 MiB"]
    assert lines["MAP_SHARED_PT, links of 2 MiB"] == ["0 B", "1.2 MiB", "600 MiB", "1.7 GiB", "2.3 GiB"]
    assert lines["MAP_SHARED_PT, links of 1 GiB"] == ["0 B", "4 KiB", "600 MiB", "7.0 MiB", "607.0 MiB"]


def test_the_pages_of_each_level(capsys: pytest.CaptureFixture[str]) -> None:
    main(THE_CASE)
    lines = capsys.readouterr().out.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("tables, one page"))
    found = [re.split(r"  +", line.strip()) for line in lines[first : first + 10]]
    assert found == [
        ["tables, one page of 4 KiB each", "PTE tables", "PMD tables", "PUD tables"],
        ["ordinary pages of 4 KiB", "each process", "153,600", "300", "1"],
        ["transparent huge pages of 2 MiB", "each process", "0", "300", "1"],
        ["hugetlb pages of 1 GiB", "each process", "0", "0", "1"],
        ["hugetlb 2 MiB, shared by GiBs", "each process", "0", "0", "1"],
        ["once for all", "0", "300", "0"],
        ["MAP_SHARED_PT, links of 2 MiB", "each process", "0", "300", "1"],
        ["once for all", "153,600", "300", "1"],
        ["MAP_SHARED_PT, links of 1 GiB", "each process", "0", "0", "1"],
        ["once for all", "153,600", "300", "1"],
    ]
    assert "Not counted: the PGD" in lines[-1]


def test_five_levels_have_one_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*THE_CASE, "--levels", "5"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"PUD tables +P4D tables\n", out)
    assert re.search(r"ordinary pages of 4 KiB +each process +153,600 +300 +1 +1\n", out)
    assert "a multiple of 256 TiB" in out


def test_decimal_units_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--size", "300GB", "--processes", "1500"])
    out = capsys.readouterr().out
    assert "279.4 GiB (300,000,000,000 bytes)" in out
    assert "818.6 GiB" in out


def test_what_is_touched_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--size", "2G", "--processes", "1", "--touched", "25%"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "1 process that maps 2 GiB (2,147,483,648 bytes) and touches 131,072 of its 524,288 pages, from its "
        "beginning on\n"
    )
    assert re.search(r"ordinary pages of 4 KiB +each process +256 +1 +1\n", out)
    command = ["plan", "--size", "2G", "--processes", "2", "--touched", "25", "--sparse"]
    assert main([*command, "--start", "2M", "--offset", "4MiB"]) == 0
    out = capsys.readouterr().out
    assert "131,072 of its 524,288 pages, spread evenly over it" in out
    assert re.search(r"ordinary pages of 4 KiB +each process +1,024 +3 +1\n", out)
    assert "Address: 2 MiB beyond a multiple of 512 GiB" in out
    assert "begins at 4 MiB of the file" in out
    assert "Not for this region: hugetlb pages of 1 GiB: its start and offset must be" in out
    assert "Not for this region: MAP_SHARED_PT, links of 1 GiB: its start and offset must differ" in out


def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    command = [*THE_CASE, "--touched", "10%", "--sparse", "--start", "2M", "--offset", "1G", "--levels", "5"]
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    region = plan.Region(300 << 30, 2 << 20, 1 << 30, plan.parse_percent("10"), True)
    assert json.loads(out) == plan.as_json(region, 1500, 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "0"], "wanted a size from 1 byte on, found 0"),
        (["--size=-1G"], "wanted a size such as 300GiB or 300G .powers of 1024., .* found '-1G'"),
        (["--size", "300X"], "argument --size: wanted a size such as 300GiB.*found '300X'; write a number"),
        (["--size", "129TiB"], "at most 128 TiB.*found 129 TiB; plan with 5 levels"),
        (["--size", "129PiB", "--levels", "5"], "at most 64 PiB.*found 129 PiB; plan with less"),
        (["--processes", "0"], "wanted a number of processes from 1 to 4,194,304.*found 0"),
        (["--processes", "-3"], "found -3"),
        (["--processes", "4194305"], "found 4,194,305"),
        (["--processes", "many"], "argument --processes: wanted a number of processes.*found 'many'"),
        (["--touched", "100.5%"], "argument --touched: wanted a percentage.*found '100.5%'"),
        (["--touched", "0"], "argument --touched: wanted a percentage.*found '0'"),
        (["--start", "1M"], "wanted a start that is a multiple of 2 MiB.*found 1,048,576 bytes"),
        (["--offset", "4K"], "wanted an offset that is a multiple of 2 MiB.*found 4,096 bytes"),
        (["--kernel-page", "16K"], "argument --kernel-page: wanted 4K.*found '16K'; leave the option out"),
        (["--kernel-page", "64KiB"], "wanted 4K.*found '64KiB'"),
        (["--levels", "3"], "argument --levels: invalid choice: 3"),
        (["--plot", "picture.gif"], r"argument --plot: wanted a file name that ends in .png or .svg.*gif'"),
        (
            ["--plot", "/nowhere/picture.png"],
            "wanted to write .* to /nowhere/picture.png, found: No",
        ),
    ],
)
def test_what_cannot_be(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = main([*THE_CASE, *options])
    except SystemExit as ended:
        status = ended.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert re.search(words, err.splitlines()[-1]), err
    assert err.splitlines()[-1].startswith("ptshare plan: ")


def test_the_kernels_page_may_be_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*THE_CASE, "--kernel-page", "4K"]) == 0
    assert "878.9 GiB" in capsys.readouterr().out


# Pictures


@pytest.mark.parametrize(("name", "beginning"), [("a.png", b"\x89PNG"), ("b.SVG", b"<?xml")])
def test_a_picture(name: str, beginning: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    assert main([*THE_CASE, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(beginning)
    assert capsys.readouterr().out.endswith(f"\nThe picture is in {path}\n")


def test_what_the_picture_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, _: drawn.append(figure))
    assert main([*THE_CASE, "--json", "--plot", str(tmp_path / "a.png")]) == 0
    (axes,) = drawn[0].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    lines = {
        str(line.get_label()): numpy.asarray(line.get_xydata(), float).tolist() for line in axes.get_lines()
    }
    assert list(lines) == list(plan.METHODS.values())
    for each in plan.estimates(plan.Region(300 << 30), 1500):
        ends = lines[plan.METHODS[each.method]]
        assert ends[0] == [1, (each.own.all + each.once.all) * 4096]
        assert ends[-1] == [1500, each.in_all.all * 4096]


def test_without_matplotlib_the_line_says_how_to_have_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*THE_CASE, "--plot", str(tmp_path / "a.png")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pip install '.[plot]' in a checkout" in err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_drawn_unless_asked_for() -> None:
    code = f"import sys; from ptshare.cli import main; main({THE_CASE!r}); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "matplotlib" not in result.stdout.splitlines()[-1]


# From an audit


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A database with 1,500 connections to 8 GiB; and what cannot be shared."""
    path = tmp_path / "db1.json"
    path.write_text(snapshot.dump(database()))
    return path


def test_from_an_audit(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--from-audit", str(saved)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "page tables by method, from an audit of db1, Linux 6.1.0-54-amd64"
    names = "processes size touched measured ordinary huge pages hugetlb shared object"
    assert lines[2].split() == names.split()
    (line,) = (line for line in lines if "/dev/zero" in line)
    figures = "1,500  8 GiB  100%  23.4 GiB  23.5 GiB  52.7 MiB  5.9 MiB  21.9 MiB  /dev/zero (deleted)"
    assert re.split(r"  +", line.strip()) == figures.split("  ")
    assert not any("quoted" in line for line in lines)
    left_out = "1 object is left out, whose tables cannot be shared: ptshare audit --from tells why"
    assert left_out in lines


def test_from_an_audit_as_json(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--size", "8GiB", "--processes", "1500", "--json"])
    alone = json.loads(capsys.readouterr().out)
    assert main(["plan", "--from-audit", str(saved), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["left_out"] == 1
    (item,) = value["objects"]
    assert item == {"name": "/dev/zero (deleted)", "measured_tables": 1500 * 4096, "plan": alone}


def test_a_part_that_was_touched(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit = database(10)
    audit.objects[1].tables //= 4
    # What cannot be is passed over.
    audit.objects.append(dataclasses.replace(audit.objects[1], size=1 << 62))
    saved.write_text(snapshot.dump(audit))
    main(["plan", "--from-audit", str(saved), "--json"])
    (item,) = json.loads(capsys.readouterr().out)["objects"]
    assert item["plan"]["touched_pages"] * 4 == item["plan"]["pages"]
    assert item["plan"]["methods"][0]["in_all"]["pages"]["pte"] == item["measured_tables"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from-audit", "/no/such/file"], "cannot read /no/such/file: No such file or directory"),
        (["--from-audit", "/dev/null"], "/dev/null is no snapshot of ptshare audit that can be read"),
        (["--from-audit", "FILE", "--size", "1G"], "--from-audit has sizes and processes of its own"),
        (["--from-audit", "FILE", "--plot", "a.svg"], "leave --plot out"),
        (["--from-audit", "FILE", "--touched", "100%"], "leave --touched out"),
        (
            ["--from-audit", "FILE", "--sparse", "--offset", "4M", "--start", "0"],
            "leave --sparse and --start and --offset out",
        ),
        (["--processes", "5"], "wanted --size and --processes, or --from-audit, found no --size"),
        (["--size", "1G"], "wanted --size and --processes, or --from-audit, found no --processes"),
        ([], "found no --size and no --processes"),
    ],
)
def test_what_cannot_be_planned_from(
    options: list[str], words: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *(str(saved) if word == "FILE" else word for word in options)]) == 2
    assert words in capsys.readouterr().err


def test_audits_that_there_is_no_plan_for(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit = database(2)
    del audit.objects[1]
    saved.write_text(snapshot.dump(audit))
    assert main(["plan", "--from-audit", str(saved)]) == 2
    assert "wanted an audit with an object that processes can share, found none" in capsys.readouterr().err
    saved.write_text(snapshot.dump(database(2, page=16384, granule=32 << 20)))
    assert main(["plan", "--from-audit", str(saved)]) == 2
    assert "wanted an audit of a host with pages of 4 KiB, found 16 KiB" in capsys.readouterr().err
