# SPDX-License-Identifier: MIT
"""What is measured is no Python: ``workload/*.c``, compiled here when it is needed, run in the guest."""

import hashlib
import os
import subprocess
from pathlib import Path

from ptshare.lab import LabError

__all__ = ["compiled"]

_SOURCES = Path(__file__).with_name("workload")
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread", "-static")


def compiled(directory: Path) -> Path:
    """The program, in a directory where it is kept.

    :raises LabError: there is no compiler, or it fails
    """
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for path in sorted(_SOURCES.glob("*.[ch]")):
        digest.update(path.read_bytes())
    program = directory / f"workload-{digest.hexdigest()[:16]}"
    if not program.exists():
        directory.mkdir(parents=True, exist_ok=True)
        new = program.with_suffix(f".{os.getpid()}")
        sources = [str(path) for path in sorted(_SOURCES.glob("*.c"))]
        try:
            subprocess.run(
                ["cc", *_FLAGS, "-o", str(new), *sources], check=True, capture_output=True, text=True
            )
        except FileNotFoundError:
            raise LabError("there is no C compiler (cc); install one with: apt-get install gcc") from None
        except subprocess.CalledProcessError as error:
            raise LabError(f"{_SOURCES} does not compile:\n{error.stderr}") from None
        new.replace(program)
    return program
