# SPDX-License-Identifier: MIT
"""Real programs in the guest, for integration tests and measurements: Debian's PostgreSQL and Redis.

:func:`fetch` on the host, :func:`prepare` in the guest, then a module a program.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from ptshare.lab import packages

__all__ = ["NOBODY", "PACKAGES", "RUN", "fetch", "prepare"]

#: What is fetched; the last are CPython's own tests. One set, for one layer more in /usr.
PACKAGES = ("postgresql-15", "redis-server", "libpython3.11-testsuite")

#: User and group that the servers run as; PostgreSQL refuses to run as root.
NOBODY = 65534

#: The front of a command that is to share its memory's page tables.
RUN = (sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())", "run", "--quiet")


def fetch(say: Callable[[str], object]) -> None:
    """On the host: get the programs, unless they are in the cache.

    :raises LabError: as :func:`ptshare.lab.packages.fetch`
    """
    packages.fetch(*PACKAGES, say=say)


def prepare() -> None:
    """In the guest: have the programs in /usr, and let their user come to this project's files.

    :raises LabError: this is no guest, or the programs were not fetched
    """
    packages.lay_over_usr(packages.cached(*PACKAGES))
    # The project may be in a home directory that nobody else may enter. What a guest changes, it alone sees.
    python = Path(sys.executable)
    for place in (python.parent, python.resolve().parent, Path(__file__).resolve().parent):
        for directory in (place, *place.parents):
            os.chmod(directory, directory.stat().st_mode | 0o111)
