# SPDX-License-Identifier: MIT
"""Results as a picture: a panel a question."""

import io

from ptshare.bench.results import Result, Results
from ptshare.bench.runs import QUESTIONS
from ptshare.bench.text import figure as figure_text
from ptshare.sizes import format_bytes

__all__ = ["draw"]

#: The longest bar to the shortest one: from there on the axis is logarithmic.
_LINEAR = 20

#: Question -> the figure that answers it.
_FIGURES = {
    "calls": "fault_ns",
    "warm": "touch_ns",
    "leave": "munmap_ns",
    "tables": "per_process_kib",
    "protect": "take_ns",
    "fork": "child_touch_ns",
    "reclaim": "page_ns",
    "storm": "all_ns",
    "cold": "all_ns",
}


def _name(result: Result, found: list[Result]) -> str:
    """The method, and what of the run is not the same in all of them."""
    words = [result.run.method]
    for field, text in (
        ("how", result.run.how),
        ("size", format_bytes(result.run.size)),
        ("processes", f"{result.run.processes:,} processes"),
        ("cpus", f"{result.run.cpus} cpus"),
    ):
        if len({getattr(other.run, field) for other in found}) > 1:
            words.append(text)
    return ", ".join(words)


def draw(results: Results) -> bytes:
    """The picture as SVG.

    :raises ImportError: matplotlib is not installed
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "a plot needs matplotlib, which is not installed; in a checkout of ptshare: pip install '.[plot]'"
        ) from None
    asked = [question for question in QUESTIONS if results.of(question)]
    sizes = [len(results.of(question)) for question in asked]
    figure = Figure(figsize=(10, 1 + sum(0.25 * size + 1 for size in sizes)), layout="constrained")
    panels = figure.subplots(len(asked), squeeze=False, gridspec_kw={"height_ratios": [n + 3 for n in sizes]})
    for question, axes in zip(asked, panels[:, 0], strict=True):
        name = _FIGURES[question]
        found = [result for result in results.of(question) if result.figures.get(name, 0) > 0]
        if not found:
            continue
        values = [result.figures[name] for result in found]
        colours = ["#4477aa" if result.run.method.startswith("shared") else "#bbbbbb" for result in found]
        bars = axes.barh(range(len(found)), values, color=colours)
        axes.bar_label(bars, [figure_text(name, value) for value in values], padding=3, fontsize=8)
        axes.set_yticks(range(len(found)), [_name(result, found) for result in found], fontsize=8)
        # Bars are compared by their length: from 0, unless the short ones would not be seen.
        if max(values) > _LINEAR * min(values):
            axes.set_xscale("log")
            axes.set_xlim(min(values) / 10, max(values) * 10)
        else:
            axes.set_xlim(0, max(values) * 1.15)
        axes.invert_yaxis()
        stem, _, unit = name.rpartition("_")
        axes.set_title(f"{question}: {QUESTIONS[question]}; {stem}, {unit}", fontsize=9)
    data = io.BytesIO()
    figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()
