# SPDX-License-Identifier: MIT
"""The demo on any machine: the problem is measured here while the kernel is built, the rest on that kernel
in a guest.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ptshare.demo.session import needed_bytes
from ptshare.lab import GuestResult, Image, Progress, build_image, run_guest

__all__ = ["build_and_measure", "guest_memory", "run_in_guest"]

#: What the guest needs beside the demo: its kernel, and what it caches of the host's files.
_GUEST_BYTES = 1 << 30

_LEAST_GIB = 4

#: Measures the problem and prints it.
MEASURE = [sys.executable, "-m", "ptshare.demo.problem"]


def guest_memory(size: int, processes: int) -> str:
    """Memory of a guest for the demo, as ``run_guest`` takes it: 4 GiB, or more if more is needed."""
    gib = -(-(needed_bytes(size, processes) + _GUEST_BYTES) // (1 << 30))
    return f"{max(_LEAST_GIB, gib)}G"


def build_and_measure(progress: Callable[[Progress], object], say: Callable[[str], object]) -> Image:
    """Build the kernel, unless it is cached, and meanwhile measure the problem on the host.

    :param progress: called as the build gets on; never at the same time as ``say``
    :param say: called with what was measured
    :raises LabError: the kernel cannot be built
    """
    printing = threading.Lock()

    def report(step: Progress) -> None:
        with printing:
            progress(step)

    def say_alone(text: str) -> None:
        with printing:
            say(text)

    with _measuring(say_alone):
        return build_image(progress=report)


@contextmanager
def _measuring(say: Callable[[str], object]) -> Iterator[None]:
    """Measure the problem in a process of its own; wait for it at the end, or end it if there was an
    error.
    """
    process = subprocess.Popen(
        MEASURE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which ends that one
    )

    def listen() -> None:
        text, _ = process.communicate()
        if process.returncode != -signal.SIGTERM and text:
            say(text)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield
        listener.join()
    finally:
        if process.poll() is None:
            process.terminate()
        listener.join()


def run_in_guest(
    options: Sequence[str],
    image: Image,
    memory: str,
    env: Mapping[str, str],
    stdout: Callable[[bytes], object],
    stderr: Callable[[bytes], object],
) -> GuestResult:
    """Boot ``image`` and run ``ptshare demo`` with ``options`` in it.

    :raises LabError: the guest cannot be started
    """
    command = [
        sys.executable,
        "-c",
        "import sys; from ptshare.cli import main; sys.exit(main())",
        "demo",
        *options,
    ]
    return run_guest(command, image=image, memory=memory, env=env, stdout=stdout, stderr=stderr)
