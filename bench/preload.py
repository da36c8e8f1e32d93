#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the library of ``ptshare run`` costs for mappings that it leaves alone.

On any machine with a C compiler; the kernel need not be patched::

    .venv/bin/python bench/preload.py

A program calls mmap and munmap, and mprotect, many times, for memory that is not to be shared. It runs
without the library; with it; and with it and four mappings in its table, with which each address has to be
compared. For the last the library is built to ask for ordinary page tables, so that every kernel grants it;
what it does is the same. The runs take turns, and the least of each counts: what else the machine does only
adds to it.
"""

import argparse
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import ptshare.preload

SOURCES = sorted(Path(ptshare.preload.__file__).parent.glob("*.c"))
PROGRAM = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void pairs(int kind, long n)
{
    double start = now();

    for (long i = 0; i < n; i++)
        munmap(mmap(NULL, 4096, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0), 4096);
    printf("%f ", (now() - start) / n / 2);
}

int main(int argc, char **argv)
{
    long n = atol(argv[argc - 1]);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    double start;

    /* Below all that the kernel chooses. */
    for (unsigned long at = 1; at <= 4; at++)
        mmap((void *)(at << 40), 64 << 20, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    pairs(MAP_PRIVATE, n);
    pairs(MAP_SHARED, n / 4);
    start = now();
    for (long i = 0; i < n; i++)
        mprotect(page, 4096, i & 1 ? PROT_READ | PROT_WRITE : PROT_READ);
    printf("%f\n", (now() - start) / n);
    return 0;
}
"""
CALLS = ("mmap, munmap: private", "mmap, munmap: shared", "mprotect")


def compiled(target: Path, sources: list[Path], *options: str) -> Path:
    command = ["cc", "-std=gnu11", "-O2", *options, "-o", str(target), *map(str, sources), "-pthread"]
    subprocess.run(command, check=True)
    return target


def nanoseconds(program: Path, library: Path | None, calls: int) -> list[float]:
    """Of each of :data:`CALLS`."""
    environment = {**os.environ, "PTSHARE_MIN_SIZE": str(8 << 20)}
    if library:
        environment["LD_PRELOAD"] = str(library)
    command = [str(program), str(calls)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return [float(word) for word in out.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the preload library costs for what it leaves alone.")
    parser.add_argument("--calls", type=int, default=200_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="default: %(default)s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "program.c")
        source.write_text(PROGRAM)
        program = compiled(Path(directory, "program"), [source])
        stand_in = compiled(
            Path(directory, "library.so"),
            SOURCES,
            "-shared",
            "-fPIC",
            "-fvisibility=hidden",
            "-DMAP_SHARED_PT=0",
            '-DGRANULE_FILE="/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"',
        )
        kinds: dict[str, Path | None] = {
            "without": None,
            "with": ptshare.preload.library(),
            "with a table": stand_in,
        }
        least: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for kind, library in kinds.items():
                found = nanoseconds(program, library, args.calls)
                least[kind] = [min(pair) for pair in zip(found, least.get(kind, found), strict=True)]
    print(f"Linux {platform.release()}, nanoseconds a call")
    print(f"{'':24}" + "".join(f"{kind:>14}" for kind in kinds) + f"{'more, at most':>16}")
    for number, call in enumerate(CALLS):
        row = [least[kind][number] for kind in kinds]
        print(f"{call:24}" + "".join(f"{value:14.1f}" for value in row) + f"{max(row) - row[0]:16.1f}")


if __name__ == "__main__":
    main()
