# SPDX-License-Identifier: MIT
"""Runs of 64 processes on a file of 1 GiB, as a kernel with the feature would show them."""

from ptshare.counters import SharingCounters
from ptshare.demo.measure import Aftermath, Protection, Run, Survival

GRANULE = 2 << 20

IDLE = SharingCounters(GRANULE, domains=0, guests=0, tables=0, enabled=True)
BUSY = SharingCounters(GRANULE, domains=1, guests=64, tables=515, enabled=True)

ORDINARY = Run(
    filesystem="ext4",
    method="ordinary",
    size=1 << 30,
    page_tables_kib=64 * 2052,
    own_kib=(2052,) * 64,
    faults=(16390,) * 64,
    seconds=(0.5,) * 64,
)

#: With ORDINARY it proves that tables were shared.
SHARED = Run(
    filesystem="ext4",
    method="shared",
    size=1 << 30,
    page_tables_kib=2060 + 64 * 8,
    own_kib=(8,) * 64,
    faults=(16390,) + (3,) * 63,
    seconds=(0.5,) + (0.125,) * 63,
    protection=Protection(seconds=0.00025, could_write=63, lost=63),
    survival=Survival(killed=32, faults=(0,) * 32, write_again=32),
    aftermath=Aftermath(page_tables_kib=12, before=IDLE, during=BUSY, after=IDLE),
)
