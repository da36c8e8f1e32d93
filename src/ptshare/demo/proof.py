# SPDX-License-Identifier: MIT
"""Was sharing proven? By tables and by faults; never by data, which a mapping without shared tables shows
as well.
"""

from collections.abc import Iterator, Sequence

from ptshare import abi
from ptshare.demo.measure import NOISE_KIB, Run

__all__ = ["MIN_BYTES", "one_set_kib", "shortcomings"]

#: The smallest file whose tables stand out from everything else that a process does.
MIN_BYTES = 64 << 20

_KIB = 1 << 10
_PAGE_KIB = 4
_GIB = 1 << 30

#: KiB of page tables of its own that a process may get by mapping: the directories above the shared tables,
#: and a little heap.
_OWN_KIB = 32

#: Faults that a process may take beyond one for each granule.
_OWN_FAULTS = 64

#: Faults of a process that only reads once more what it has read.
_REREAD_FAULTS = 8


def one_set_kib(size: int, granule: int) -> int:
    """KiB of page tables for ``size`` bytes, once: a table a granule, and a directory of them for each
    GiB.
    """
    tables = _ceil(size, granule)
    directories = _ceil(tables, granule // (4 * _KIB))
    return (tables + directories) * _PAGE_KIB


def shortcomings(runs: Sequence[Run], granule: int) -> list[str]:
    """What speaks against it that the shared runs shared their tables; empty: it is proven.

    :param runs: pairs of an ordinary and a shared run, a pair for each file
    """
    if not runs or len(runs) % 2:
        return ["there is no pair of an ordinary and a shared run to compare"]
    return [
        f"{shared.filesystem}: {words}"
        for ordinary, shared in zip(runs[::2], runs[1::2], strict=True)
        for words in (
            *_of_tables(ordinary, shared, granule),
            *_of_faults(ordinary, shared, granule),
            *_of_use(shared),
            *_of_aftermath(shared, granule),
        )
    ]


def _of_tables(ordinary: Run, shared: Run, granule: int) -> Iterator[str]:
    once = one_set_kib(shared.size, granule)
    each = 0.8 * once
    if ordinary.mean_own_kib < each:
        yield f"an ordinary mapping has only {ordinary.mean_own_kib:.0f} KiB of tables: huge pages"
    allowed_own = _OWN_KIB + _PAGE_KIB * _ceil(shared.size, _GIB)
    most = max(shared.own_kib)
    if most > allowed_own:
        yield f"a process got {most} KiB of page tables of its own, more than {allowed_own} KiB"
    allowed = once + shared.processes * allowed_own + NOISE_KIB
    if shared.page_tables_kib > allowed:
        yield f"PageTables grew by {shared.page_tables_kib} KiB, more than {allowed} KiB"


def _of_faults(ordinary: Run, shared: Run, granule: int) -> Iterator[str]:
    allowed = _ceil(shared.size, granule) + _OWN_FAULTS
    most = max(shared.faults[1:])
    if most > allowed:
        yield f"a further process took {most} minor faults, more than one a granule ({allowed})"
    if ordinary.mean_faults < 2 * allowed:
        yield f"an ordinary mapping takes only {ordinary.mean_faults:.0f} faults: huge pages"


def _of_use(shared: Run) -> Iterator[str]:
    others = shared.processes - 1
    if protection := shared.protection:
        if protection.could_write != others:
            yield f"only {protection.could_write} of {others} other processes could write at first"
        if protection.lost != others:
            yield f"only {protection.lost} of {others} other processes lost write access"
    if survival := shared.survival:
        left = shared.processes - survival.killed
        if max(survival.faults) > _REREAD_FAULTS:
            yield f"after the kill a process took {max(survival.faults)} faults for pages that it had"
        if survival.write_again is not None and survival.write_again != left:
            yield f"only {survival.write_again} of {left} processes could write again"


def _of_aftermath(shared: Run, granule: int) -> Iterator[str]:
    aftermath = shared.aftermath
    if aftermath is None:
        yield f"{abi.SYSFS} is not there"
        return
    before, during, after = aftermath.before, aftermath.during, aftermath.after
    if during.domains != before.domains + 1:
        yield f"{during.domains - before.domains} domains were in use for one file"
    if during.guests != before.guests + shared.processes:
        yield f"{during.guests - before.guests} mappings were attached, not {shared.processes}"
    tables = during.tables - before.tables
    if not _ceil(shared.size, granule) <= tables <= 2 + 2 * one_set_kib(shared.size, granule) // _PAGE_KIB:
        yield f"{tables} shared page-table pages were held for {_ceil(shared.size, granule)} granules"
    if after != before:
        yield f"{abi.SYSFS} is not as before: {after}, was {before}"
    if aftermath.page_tables_kib > NOISE_KIB:
        yield f"{aftermath.page_tables_kib} KiB of page tables are left after the last process"


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)
