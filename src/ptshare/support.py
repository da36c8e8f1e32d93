# SPDX-License-Identifier: MIT
"""Does the running kernel share page tables?"""

import errno
import functools
import mmap
import os
from typing import NamedTuple, Self

from ptshare import abi

__all__ = ["Support", "UnsupportedError", "granule", "probe"]


class UnsupportedError(OSError):
    """Page tables cannot be shared here; ``errno`` is EOPNOTSUPP.

    :param reason: why not
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            errno.EOPNOTSUPP,
            f"page tables cannot be shared: {reason}; page_tables='auto' maps with what the kernel has",
        )

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """A worker process can raise it: what OSError would give to ``__init__`` is number and message."""
        return type(self), (self.reason,)


class Support(NamedTuple):
    """What the running kernel offers.

    :param supported: a mapping with shared page tables would be granted
    :param granule: bytes that one table maps: the unit of such a mapping's offset and length
    :param reason: why it would not be granted, ``None`` if it would
    """

    supported: bool
    granule: int
    reason: str | None


@functools.cache
def granule() -> int:
    """Bytes that one page-table page of PTEs maps (PMD_SIZE), as the kernel tells it, else as on x86-64.

    It is read once: a kernel does not change it.
    """
    for source in (f"{abi.SYSFS}/granule", abi.PMD_SIZE_FILE):
        try:
            with open(source) as file:
                return int(file.read())
        except OSError:
            continue
    return abi.GRANULE_X86_64


def probe() -> Support:
    """Ask the kernel, by a small mapping that is undone at once.

    MAP_SHARED_VALIDATE makes a kernel that does not know MAP_SHARED_PT refuse it with EOPNOTSUPP; see
    docs/contract.md.
    """
    size = granule()
    fd = os.memfd_create("ptshare-probe")
    try:
        os.ftruncate(fd, size)
        mmap.mmap(fd, size, flags=abi.MAP_SHARED_VALIDATE | abi.MAP_SHARED_PT).close()
    except OSError as error:
        return Support(supported=False, granule=size, reason=_reason(error))
    finally:
        os.close(fd)
    return Support(supported=True, granule=size, reason=None)


def _reason(error: OSError) -> str:
    if error.errno != errno.EOPNOTSUPP:
        return f"the kernel refused a trial mapping: {error.strerror}"
    if os.path.isdir(abi.SYSFS):
        return f"switched off, {abi.SYSFS}/enabled is 0"
    return "this kernel does not have MAP_SHARED_PT"
