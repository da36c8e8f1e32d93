# SPDX-License-Identifier: MIT
"""``ptshare plan``."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ptshare import plan
from ptshare.plan import PAGE, Estimate, Levels, PlanError, Region, Tables
from ptshare.sizes import format_bytes, parse_bytes

__all__ = ["add_parser", "run"]

_BYTES = "{:<34}{:>11}{:>14}{:>13}{:>14}{:>12}"
_PAGES = "{:<34}{:<14}{:>15}{:>13}{:>12}"
_P4D = "{:>12}"

#: What a picture can be written as.
_PICTURES = (".png", ".svg")

_T = TypeVar("_T")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``plan``."""
    parser = subparsers.add_parser(
        "plan",
        help="reckon what page tables take for so many processes, by method",
        description="Prints what page tables take where a number of processes map a file or memory and touch "
        "it: ordinary ones, huge pages, and MAP_SHARED_PT. By arithmetic, for x86-64; nothing is measured.",
        epilog="Sizes: K, M, G, T, P and E, alone or with iB (300G, 300GiB), are powers of 1024; with B "
        "(300GB) powers of 1000. Exit status: 0, or 2 for what cannot be. The formulas: docs/plan.md.",
    )
    parser.add_argument(
        "--size",
        type=_taken(parse_bytes),
        metavar="SIZE",
        help="what each process maps, such as 300GiB",
    )
    parser.add_argument("--processes", type=_taken(_number), metavar="N", help="how many map it")
    parser.add_argument(
        "--from-audit",
        metavar="FILE",
        help="instead of size and processes: those of each object in a snapshot of ptshare audit --save; "
        "-: standard input",
    )
    parser.add_argument(
        "--touched",
        type=_taken(plan.parse_percent),
        metavar="PERCENT",
        help="how much of it each process touches: its first part, the same for all; default: 100%%",
    )
    parser.add_argument(
        "--sparse", action="store_true", help="the touched pages are spread evenly over the region instead"
    )
    parser.add_argument(
        "--start",
        type=_taken(parse_bytes),
        metavar="SIZE",
        help="how far beyond a multiple of 512 GiB (256 TiB with five levels) the region's address is, in "
        "multiples of 2M; default: 0",
    )
    parser.add_argument(
        "--offset",
        type=_taken(parse_bytes),
        metavar="SIZE",
        help="where in the file it begins, in multiples of 2M; default: 0",
    )
    parser.add_argument(
        "--levels",
        type=int,
        choices=(4, 5),
        default=4,
        help="levels of page tables; default: %(default)s",
    )
    parser.add_argument(
        "--kernel-page",
        type=_taken(_kernel_page),
        default=PAGE,
        metavar="SIZE",
        help="the kernel's page; 4K, that of x86-64, is all that is known here",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON and nothing else")
    parser.add_argument(
        "--plot",
        type=_taken(_picture),
        metavar="FILE",
        help="draw memory against the number of processes, as .png or .svg; needs matplotlib",
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan and return the exit status."""
    if args.from_audit is not None:
        return _from_audit(args)
    missing = [
        name for name, value in (("--size", args.size), ("--processes", args.processes)) if value is None
    ]
    if missing:
        return _fail(f"wanted --size and --processes, or --from-audit, found no {' and no '.join(missing)}")
    touched = plan.parse_percent("100%") if args.touched is None else args.touched
    region = Region(args.size, args.start or 0, args.offset or 0, touched, args.sparse)
    try:
        plan.estimates(region, args.processes, args.levels)
        if args.plot is not None:
            _draw(region, args.processes, args.levels, args.plot)
    except PlanError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(
            f"wanted to write the picture to {args.plot}, found: {error.strerror or error}; "
            "name a place that can be written"
        )
    if args.json:
        print(json.dumps(plan.as_json(region, args.processes, args.levels), indent=2))
        return 0
    lines = list(_lines(region, args.processes, args.levels))
    if args.plot is not None:
        lines += ["", f"The picture is in {args.plot}"]
    print("\n".join(lines))
    return 0


def _from_audit(args: argparse.Namespace) -> int:
    from ptshare.audit import planned, snapshot
    from ptshare.audit.words import path_name

    others = [
        f"--{name}"
        for name in ("size", "processes", "touched", "sparse", "start", "offset", "plot")
        if getattr(args, name) is not None and getattr(args, name) is not False
    ]
    if others:
        return _fail(
            "--from-audit has sizes and processes of its own, what is touched as it was measured, and no "
            f"picture; leave {' and '.join(others)} out"
        )
    try:
        audit = snapshot.read(args.from_audit)
        found = planned.planned(audit, args.levels)
    except (snapshot.SnapshotError, PlanError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot read {path_name(args.from_audit)}: {error.strerror}")
    if args.json:
        print(json.dumps(planned.as_json(audit, found, args.levels), indent=2))
    else:
        print("\n".join(planned.lines(audit, found)))
    return 0


def _fail(message: str) -> int:
    print(f"ptshare plan: {message}", file=sys.stderr)
    return 2


def _lines(region: Region, processes: int, levels: Levels) -> Iterator[str]:
    """The plan for people."""
    found = plan.estimates(region, processes, levels)
    yield _title(region, processes)
    yield ""
    yield f"{'':<34}{'each process':>25}{'all of them together':>39}"
    yield _BYTES.format("method", "PTE tables", "upper levels", "PTE tables", "upper levels", "together")
    for each in found:
        own, in_all = each.own, each.in_all
        figures = (own.pte, own.upper, in_all.pte, in_all.upper, in_all.all)
        yield _BYTES.format(plan.METHODS[each.method], *(format_bytes(pages * PAGE) for pages in figures))
    yield ""
    head = _PAGES.format("tables, one page of 4 KiB each", "", "PTE tables", "PMD tables", "PUD tables")
    yield head + (_P4D.format("P4D tables") if levels == 5 else "")
    for each in found:
        yield from _levels_of(each, levels)
    yield ""
    for method, name in plan.METHODS.items():
        reason = plan.why_not(method, region, levels)
        if reason is not None:
            yield f"Not for this region: {name}: {reason}."
    beyond = f"{format_bytes(region.start)} beyond " if region.start else ""
    yield f"Address: {beyond}a multiple of {format_bytes(plan.slot(levels))}, in each process."
    yield f"It begins at {format_bytes(region.offset)} of the file, and all have the same rights to it."
    yield "Links are of 1 GiB where address and offset differ by whole GiBs and one mapping has it all."
    yield "Not counted: the PGD, a page of each process that is there anyway; MAP_SHARED_PT has one more."


def _title(region: Region, processes: int) -> str:
    size = format_bytes(region.size)
    if size != f"{region.size} B":
        size += f" ({region.size:,} bytes)"
    who = f"{processes:,} processes" if processes != 1 else "1 process"
    what = f"{who} that map {size} and touch" if processes != 1 else f"{who} that maps {size} and touches"
    if region.touched == 1:
        return f"{what} all of it"
    where = "spread evenly over it" if region.sparse else "from its beginning on"
    return f"{what} {region.touched_pages:,} of its {region.pages:,} pages, {where}"


def _levels_of(each: Estimate, levels: Levels) -> Iterator[str]:
    def line(name: str, whose: str, tables: Tables) -> str:
        figures = _PAGES.format(
            name, whose, *(f"{pages:,}" for pages in (tables.pte, tables.pmd, tables.pud))
        )
        return figures + (_P4D.format(f"{tables.p4d:,}") if levels == 5 else "")

    yield line(plan.METHODS[each.method], "each process", each.own)
    if each.once.all:
        yield line("", "once for all", each.once)


def _draw(region: Region, processes: int, levels: Levels, path: Path) -> None:
    """Draw memory against the number of processes."""
    # Only here: it takes a second to import, and nothing else needs it.
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PlanError(
            "wanted matplotlib for --plot, found none; install it: pip install 'matplotlib>=3.7', "
            "or pip install '.[plot]' in a checkout of ptshare"
        ) from None

    steps = plan.process_steps(processes)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for each in plan.estimates(region, processes, levels):
        heights = [each._replace(processes=step).in_all.all * PAGE for step in steps]
        axes.plot(steps, heights, marker="." if len(steps) < 30 else "", label=plan.METHODS[each.method])
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(lambda height, _: format_bytes(round(height)))
    axes.set_xlabel("processes")
    axes.set_ylabel("page tables, without PGDs")
    axes.set_title(_title(region, processes))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def _taken(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """What argparse reports the errors of."""

    def taken(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return taken


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise PlanError(f"wanted a number of processes, such as 1500, found {text!r}; write digits") from None


def _kernel_page(text: str) -> int:
    page = parse_bytes(text)
    if page != PAGE:
        raise PlanError(
            f"wanted 4K, the page of x86-64, whose tables are all that is known here, found {text!r}; "
            "leave the option out"
        )
    return page


def _picture(text: str) -> Path:
    if Path(text).suffix.lower() not in _PICTURES:
        raise PlanError(f"wanted a file name that ends in .png or .svg, found {text!r}; give it such an end")
    return Path(text)
