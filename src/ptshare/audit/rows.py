# SPDX-License-Identifier: MIT
"""An audit's objects as CSV. RFC 4180"""

import csv
import io

from ptshare.audit.model import Audit
from ptshare.audit.words import command_of, plain

__all__ = ["COLUMNS", "as_csv"]

COLUMNS = (
    "host",
    "device",
    "inode",
    "kind",
    "name",
    "filesystem",
    "shared",
    "command",
    "size_bytes",
    "mappers",
    "tables_bytes",
    "duplicate_bytes",
    "obstacle",
    "saved_by_sharing_bytes",
    "saved_by_huge_pages_bytes",
    "saved_now_bytes",
)


def as_csv(audit: Audit) -> str:
    """A line of names, and one for each object, those first of which most can be saved."""
    page, granule = audit.host.page, audit.host.granule
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for item in audit.by_saving():
        writer.writerow(
            (
                plain(audit.host.name),
                item.device,
                item.inode,
                item.kind,
                plain(item.name),
                item.filesystem,
                int(item.shared),
                command_of(item),
                item.size,
                item.mappers,
                item.tables * page,
                item.duplicate * page,
                item.obstacle(granule) or "",
                item.saved_by_sharing(granule) * page,
                item.saved_by_huge_pages * page,
                item.saved_now * page,
            )
        )
    return text.getvalue()
