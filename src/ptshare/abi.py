# SPDX-License-Identifier: MIT
"""The kernel's ABI: flag values and names. The one place that knows them."""

__all__ = [
    "GRANULE_X86_64",
    "HUGETLBFS_MAGIC",
    "MADV_COLD",
    "MADV_COLLAPSE",
    "MADV_PAGEOUT",
    "MADV_POPULATE_READ",
    "MADV_POPULATE_WRITE",
    "MAP_SHARED_PT",
    "MAP_SHARED_VALIDATE",
    "PAGE_TABLE_ENTRY",
    "PMD_SIZE_FILE",
    "PUD_SIZE_X86_64",
    "SYSFS",
    "TABLES",
    "TMPFS_MAGIC",
    "VM_SHARED_PT_FIELD",
]

#: Bytes that one page-table page of PTEs maps on x86-64 with 4 KiB pages: 512 entries of 4 KiB each.
GRANULE_X86_64 = 2 << 20

#: Bytes that one page-table page of PMDs maps there: what the kernel's own sharing of hugetlb tables goes by.
PUD_SIZE_X86_64 = 1 << 30

#: statfs(2), ``f_type``. include/uapi/linux/magic.h
HUGETLBFS_MAGIC = 0x958458F6
TMPFS_MAGIC = 0x01021994

#: madvise(2), where the standard library does not have them. include/uapi/asm-generic/mman-common.h
MADV_COLD = 20
MADV_PAGEOUT = 21
MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
MADV_COLLAPSE = 25

#: mmap(2) flag: share page tables with every process that maps the same file.
#: include/uapi/asm-generic/mman-common.h
MAP_SHARED_PT = 0x200000

#: mmap(2) type like MAP_SHARED that refuses unknown flags with EOPNOTSUPP. include/uapi/linux/mman.h
MAP_SHARED_VALIDATE = 0x03

#: Bytes of one entry of a page table on 64-bit machines.
PAGE_TABLE_ENTRY = 8

#: The granule as a kernel with transparent huge pages tells it, whether or not it has MAP_SHARED_PT.
PMD_SIZE_FILE = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

#: Directory of the feature's counters and switch: granule, domains, guests, tables, enabled.
SYSFS = "/sys/kernel/mm/ptshare"

#: The file of debugfs that lists tables and links; for debugging, no ABI. Documentation/mm/ptshare.rst
TABLES = "/sys/kernel/debug/ptshare/tables"

#: Line of /proc/PID/status: memory mapped through shared page tables, in kB.
VM_SHARED_PT_FIELD = "VmSharedPT"
