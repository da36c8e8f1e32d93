# SPDX-License-Identifier: MIT
"""The host's time stamp counter, which QEMU's emulation hands to the guest as its own.

Without ACPI the guest has neither HPET nor PM timer to calibrate the counter with, and calibrating with the
PIT fails when the emulation is late; the guest's clock would then tick in jiffies of 4 ms. So the host tells
the frequency.
"""

import ctypes
import mmap
import time
from collections.abc import Callable

__all__ = ["ICOUNT_KHZ", "tsc_khz"]

#: The counter of a guest whose clock counts instructions: nanoseconds of that clock.
ICOUNT_KHZ = 1_000_000

#: rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")


def _sample(rdtsc: Callable[[], int]) -> tuple[int, int]:
    """Counter and nanoseconds; of several, the pair that was taken closest together."""
    tries = []
    for _ in range(20):
        before = time.monotonic_ns()
        ticks = rdtsc()
        after = time.monotonic_ns()
        tries.append((after - before, ticks, (before + after) // 2))
    _, ticks, now = min(tries)
    return ticks, now


def tsc_khz(seconds: float = 0.1) -> int:
    """Frequency in kHz, measured for ``seconds`` against CLOCK_MONOTONIC."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(_RDTSC)
        anchor = ctypes.c_char.from_buffer(code)
        rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
        first_ticks, first = _sample(rdtsc)
        time.sleep(seconds)
        last_ticks, last = _sample(rdtsc)
        del rdtsc, anchor  # the mapping cannot be closed while they refer to it
    return round((last_ticks - first_ticks) * 1_000_000 / (last - first))
