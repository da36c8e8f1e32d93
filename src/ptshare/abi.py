# SPDX-License-Identifier: MIT
"""The kernel's ABI: flag values and names. The one place that knows them."""

from pathlib import Path

__all__ = ["MAP_SHARED_PT", "MAP_SHARED_VALIDATE", "SYSFS", "VM_SHARED_PT_FIELD"]

#: mmap(2) flag: share page tables with every process that maps the same file. include/uapi/asm-generic/mman-common.h
MAP_SHARED_PT = 0x200000

#: mmap(2) type like MAP_SHARED that refuses unknown flags with EOPNOTSUPP. include/uapi/linux/mman.h
MAP_SHARED_VALIDATE = 0x03

#: Directory of the feature's counters and switch: granule, domains, guests, tables, enabled.
SYSFS = Path("/sys/kernel/mm/ptshare")

#: Line of /proc/PID/status: memory mapped through shared page tables, in kB.
VM_SHARED_PT_FIELD = "VmSharedPT"
