# SPDX-License-Identifier: MIT
"""Programs that the model and the kernel both run: files, and steps that processes take one after the other.

A program is data, so that it can be sent, shrunk and printed. Calls and their arguments:

=============== ==========================================================================================
mmap            address, length, prot, file, mode, offset, flags
mmap_anywhere   length, file, offset: with shared tables where the kernel likes, and unmapped again
munmap          address, length
mprotect        address, length, prot
pkey_mprotect   address, length, prot, key
mremap          address, length, new length, new address (0: no MREMAP_FIXED)
madvise         address, length, advice
mlock, munlock  address, length
msync           address, length
mseal           address, length
load, fetch     address: read, or execute, the byte there
store           address, value
vm_read         address: the byte there by process_vm_readv(2), called by somebody else
vm_write        address, value: by process_vm_writev(2)
mem_write       address, value: by /proc/PID/mem, which wants to write even where it is not allowed
fork            process: who the child is
exec            the process begins anew
exit, kill
stay_awake      count: the process does not give up its processor until it has taken so many more steps
set_mdwe        PR_SET_MDWE
truncate        file, size
punch           file, offset, length
fsync           file
seal            file: F_SEAL_FUTURE_WRITE, so no new mapping can write
enable          0 or 1, to /sys/kernel/mm/ptshare/enabled
=============== ==========================================================================================

Calls on files are made by nobody among the processes; so is ``enable``.
"""

from typing import NamedTuple

from ptshare.syscalls import GIB, GRANULE, PAGE

__all__ = [
    "ADDRESS",
    "AREA",
    "FIRST",
    "KINDS",
    "MODES",
    "PROCESSES",
    "Flag",
    "Program",
    "Step",
    "name",
]

#: Where processes map, and how far: nothing else of theirs is there.
ADDRESS = 1 << 40
AREA = 8 * GIB

#: How many processes there are at first, and may be in all.
FIRST, PROCESSES = 3, 5

#: What files are: with and without tracking of dirty pages, and where nothing may be executed.
KINDS = ("memfd", "tmpfs", "ext4", "noexec")
#: How they can be open.
MODES = ("r", "rw")


class Flag:
    """Flags of ``mmap``."""

    SHARED_PT = 1
    LOCKED = 2
    NOREPLACE = 4


class Step(NamedTuple):
    """One call.

    :param process: who makes it, or whom it is about; -1: nobody
    """

    process: int
    call: str
    args: tuple[int | str, ...] = ()

    def number(self, at: int) -> int:
        """An argument that is a number."""
        found = self.args[at]
        assert isinstance(found, int)
        return found

    def text(self, at: int) -> str:
        """An argument that is a word."""
        found = self.args[at]
        assert isinstance(found, str)
        return found

    def readable(self, at: int) -> str:
        """An argument as Python, sizes and addresses by name."""
        value = self.args[at]
        if isinstance(value, str):
            return repr(value)
        if value >= ADDRESS:
            return "BASE" + (f" + {_size(value - ADDRESS)}" if value > ADDRESS else "")
        return _size(value)

    def __str__(self) -> str:
        args = ", ".join(self.readable(at) for at in range(len(self.args)))
        return f"{name(self.process)}.{self.call}({args})" if self.process >= 0 else f"{self.call}({args})"


class Program(NamedTuple):
    """Files, each of a kind and a size in bytes, and steps."""

    files: tuple[tuple[str, int], ...]
    steps: tuple[Step, ...] = ()


def name(process: int) -> str:
    """What a process is called: A, B, ..."""
    return chr(ord("A") + process)


def _size(value: int) -> str:
    for unit, size in (("GIB", GIB), ("GRANULE", GRANULE), ("PAGE", PAGE)):
        if value >= size and not value % PAGE:
            whole, rest = divmod(value, size)
            text = f"{whole} * {unit}" if whole > 1 else unit
            return text + (f" + {_size(rest)}" if rest else "")
    return str(value)
