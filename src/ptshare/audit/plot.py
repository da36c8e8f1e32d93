# SPDX-License-Identifier: MIT
"""An audit as a picture: page tables by object, duplicate against needed."""

import io
from typing import TYPE_CHECKING

from ptshare.audit.model import Audit
from ptshare.audit.words import command_of, plain, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "draw"]

FORMATS = ("png", "svg")
_OBJECTS = 15
_NAME_CHARACTERS = 40
#: An object with less than this part of the tables of the largest one would be a bar that nobody sees.
_SEEN = 200


def draw(audit: Audit, suffix: str) -> bytes:
    """The picture as a file.

    :param suffix: one of :data:`FORMATS`
    :raises ImportError: matplotlib is not installed
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "a plot needs matplotlib, which is not installed; in a checkout of ptshare: pip install '.[plot]'"
        ) from None
    figure = Figure(figsize=(10, 6), layout="constrained")
    _bars(audit, figure)
    data = io.BytesIO()
    figure.savefig(data, format=suffix)
    return data.getvalue()


def _bars(audit: Audit, figure: "Figure") -> None:
    page, granule = audit.host.page, audit.host.granule
    most = max((item.tables * page for item in audit.objects), default=0)
    large = [item for item in audit.by_saving() if item.tables * page >= most / _SEEN]
    items = [item for item in large if item.tables][:_OBJECTS][::-1]
    unit, name = (
        next(
            (size, unit)
            for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
            if most >= size
        )
        if most >= 1 << 10
        else (1, "bytes")
    )
    duplicate = [item.saved_by_sharing(granule) * page / unit for item in items]
    needed = [item.tables * page / unit - saved for item, saved in zip(items, duplicate, strict=True)]
    axes = figure.add_subplot()
    places = range(len(items))
    axes.barh(places, needed, color="#4477aa", label="needed")
    axes.barh(places, duplicate, left=needed, color="#ee6677", label="duplicate: MAP_SHARED_PT would save it")
    labels = []
    for item in items:
        label = f"{plain(item.name) or item.kind}, {command_of(item)} x {item.mappers:,}"
        # A dollar sign would begin a formula.
        labels.append(short(label, _NAME_CHARACTERS).replace("$", r"\$"))
    axes.set_yticks(places, labels)
    axes.set_xlabel(f"page tables, {name}")
    axes.set_title(f"{plain(audit.host.name)}: page tables by object".replace("$", r"\$"))
    axes.legend(loc="lower right")
