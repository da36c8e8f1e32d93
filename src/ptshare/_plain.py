# SPDX-License-Identifier: MIT
"""What kernels without MAP_SHARED_PT have against page tables: huge pages."""

import contextlib
import errno
import mmap
import os

from ptshare import abi, syscalls

__all__ = ["MFD_HUGETLB", "ask_for_huge_pages", "map_hugetlb", "on_hugetlbfs"]

#: memfd_create(2): of huge pages of 2 MiB. The kernel shares tables of those, and of no larger ones.
MFD_HUGETLB = os.MFD_HUGETLB | os.MFD_HUGE_2MB


def on_hugetlbfs(fd: int) -> bool:
    """The file's pages are huge ones, from the pool of reserved ones."""
    # A tmpfs with huge pages gives its files large blocks, too.
    return os.fstat(fd).st_blksize > mmap.PAGESIZE and syscalls.file_system(fd) == abi.HUGETLBFS_MAGIC


def map_hugetlb(fd: int, size: int, prot: int, offset: int) -> tuple[int, int]:
    """Map a file of huge pages where the kernel shares its PMD tables with other processes.

    That is where offset and address agree modulo 1 GiB; the tables of each whole GiB are shared then
    (mm/hugetlb.c, huge_pmd_share()).

    :param size: bytes, any number; whole huge pages are mapped
    :returns: the address, and the bytes that are mapped
    :raises OSError: as mmap(2); ENOMEM: not enough huge pages are free
    """
    whole = -(-size // _page_size(fd)) * _page_size(fd)
    gib = abi.PUD_SIZE_X86_64
    if whole < gib:
        return syscalls.mmap(whole, prot, mmap.MAP_SHARED, fd, offset), whole
    # The kernel would take any address that is aligned to a huge page, so that a place is reserved first.
    length = whole + gib
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    reserved = syscalls.mmap(length, syscalls.NONE, flags)
    try:
        address = reserved + (offset - reserved) % gib
        syscalls.mmap(whole, prot, mmap.MAP_SHARED | syscalls.MAP_FIXED, fd, offset, address)
    except BaseException:
        syscalls.munmap(reserved, length)
        raise
    for start, end in ((reserved, address), (address + whole, reserved + length)):
        if end > start:
            syscalls.munmap(start, end - start)
    return address, whole


def ask_for_huge_pages(fd: int, mapping: mmap.mmap) -> None:
    """Have the kernel use huge pages for a file in memory, where it is set up to do so when asked.

    Whether it does is seen when pages are there: :attr:`ptshare.report.Report.huge`.
    """
    if syscalls.file_system(fd) == abi.TMPFS_MAGIC:
        with contextlib.suppress(OSError):  # EINVAL: this kernel has none
            mapping.madvise(mmap.MADV_HUGEPAGE)


def _page_size(fd: int) -> int:
    size = os.fstat(fd).st_blksize
    if size % mmap.PAGESIZE:
        raise OSError(errno.EINVAL, f"the file's blocks have {size} bytes, which are no pages")
    return size
