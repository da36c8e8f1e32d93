# SPDX-License-Identifier: MIT
"""The kernel's ABI: flag values and names. The one place that knows them."""

__all__ = [
    "GRANULE_X86_64",
    "MADV_POPULATE_READ",
    "MAP_SHARED_PT",
    "MAP_SHARED_VALIDATE",
    "PAGE_TABLE_ENTRY",
    "PMD_SIZE_FILE",
    "SYSFS",
    "VM_SHARED_PT_FIELD",
]

#: Bytes that one page-table page of PTEs maps on x86-64 with 4 KiB pages: 512 entries of 4 KiB each.
GRANULE_X86_64 = 2 << 20

#: madvise(2): map all pages for reading, reading the file where needed.
#: include/uapi/asm-generic/mman-common.h
MADV_POPULATE_READ = 22

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

#: Line of /proc/PID/status: memory mapped through shared page tables, in kB.
VM_SHARED_PT_FIELD = "VmSharedPT"
