# SPDX-License-Identifier: MIT
"""In the guest: ``python -m ptshare.bench.guest PROGRAM`` does the runs that BENCH_RUNS lists, in JSON.

For each it prints a line of JSON, the figures or why there are none. With BENCH_LOCKS in the environment the
locks that were waited for come with them.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from ptshare.bench.locks import counted
from ptshare.bench.results import figures
from ptshare.bench.runs import Run

__all__ = ["main"]

_HUGE_BYTES = 2 << 20
_HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


@contextmanager
def _mounted(*arguments: str) -> Iterator[str]:
    """A directory in the scratch space with something mounted on it."""
    directory = Path(os.environ.get("TMPDIR", "/tmp"), "bench")
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(directory)], check=True)
    try:
        yield f"dir={directory}"
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@contextmanager
def _huge_pages(size: int) -> Iterator[str]:
    wanted = size // _HUGE_BYTES
    _HUGE_PAGES.write_text(str(wanted))
    try:
        if int(_HUGE_PAGES.read_text()) < wanted:
            raise OSError("there is no memory for that many huge pages")
        yield "method=hugetlb"
    finally:
        _HUGE_PAGES.write_text("0")


@functools.cache
def _disk() -> str:
    """The guest's empty disk, with a file system."""
    subprocess.run(["mkfs.ext4", "-q", "-F", "/dev/vda"], check=True)
    return "/dev/vda"


@contextmanager
def _place(run: Run) -> Iterator[str]:
    """Where the file is: an argument for the workload."""
    if run.method == "hugetlb":
        with _huge_pages(run.size) as argument:
            yield argument
    elif run.method == "tmpfs-huge":
        with _mounted("-t", "tmpfs", "-o", "huge=always,size=90%", "bench") as argument:
            yield argument
    elif run.disk:
        with _mounted(_disk()) as argument:
            yield argument
    else:
        yield f"method={run.method}"


def _measured(program: str, run: Run) -> dict[str, object]:
    try:
        with _place(run) as argument, counted("BENCH_LOCKS" in os.environ) as locks:
            done = subprocess.run(
                [program, *run.arguments(), argument], capture_output=True, text=True, check=True
            )
        return {"figures": figures(done.stdout.splitlines()), "locks": [asdict(lock) for lock in locks]}
    except subprocess.CalledProcessError as error:
        return {"error": (error.stderr or str(error)).strip()}
    except (OSError, ValueError) as error:
        return {"error": str(error)}


def main() -> None:
    """Do them all."""
    print(json.dumps({"release": os.uname().release}), flush=True)
    for fields in json.loads(os.environ["BENCH_RUNS"]):
        print(json.dumps(_measured(sys.argv[1], Run(**fields))), flush=True)


if __name__ == "__main__":
    main()
