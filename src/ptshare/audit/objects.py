# SPDX-License-Identifier: MIT
"""What a mapping is of: kinds of objects, by file system and name."""

import re

from ptshare.audit.model import Kind
from ptshare.audit.proc import Vma

__all__ = ["classify"]

#: Names that the kernel gives to files of its own, which are on no mounted file system.
_OWN: list[tuple[re.Pattern[str], Kind]] = [
    (re.compile(r"/memfd:.*", re.DOTALL), "memfd"),
    (re.compile(r"/dev/zero \(deleted\)|\[anon_shmem:.*\]", re.DOTALL), "anonymous"),
    (re.compile(r"/SYSV[0-9a-f]{8} \(deleted\)"), "sysv"),
    (re.compile(r"/anon_hugepage \(deleted\)"), "hugetlb"),
]
_TMPFS = ("tmpfs", "ramfs", "rootfs")
_DEVICES = ("devtmpfs", "sysfs", "proc", "devpts", "pstore", "binder")


def classify(vma: Vma, filesystem: str, page: int) -> Kind:
    """What a mapping of a file is of.

    :param filesystem: type of the one mounted on its device; empty: none is
    :param page: bytes of an ordinary page
    """
    if filesystem == "hugetlbfs" or vma.page > page:
        return "hugetlb"
    if filesystem in _TMPFS:
        return "tmpfs"
    if filesystem in _DEVICES:
        return "device"
    if filesystem:
        return "file"
    for pattern, kind in _OWN:
        if pattern.fullmatch(vma.name):
            return kind
    # Not mounted, and none of those: a buffer of a driver, a ring of io_uring or perf, a socket's; or a file
    # on a block device that is mounted elsewhere.
    return "file" if vma.major else "device"
