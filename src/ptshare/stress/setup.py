# SPDX-License-Identifier: MIT
"""What a run is, as each of its processes must know it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from ptshare.stress.files import File
from ptshare.syscalls import MAP_SHARED, RW, SHARED_PT, R, X

__all__ = ["CLASSES", "GUARDED", "REGION_PAGES", "STATES", "AccessClass", "Setup"]


@dataclass(frozen=True)
class AccessClass:
    """How a file is opened and mapped.

    :param write: it is opened for writing
    :param prot: asked for at mmap
    """

    name: str
    write: bool
    prot: int


CLASSES = (
    AccessClass("rw", True, RW),
    AccessClass("r", False, R),
    AccessClass("r of rw", True, R),
    AccessClass("rwx", True, RW | X),
    AccessClass("rx", False, R | X),
)

#: Classes in which protection is changed, and the protections that each can have.
GUARDED = (0, 2, 3)
STATES = {0: (0, R, RW), 2: (0, R, RW), 3: (0, R, RW, R | X, RW | X)}

#: Pages whose protection is changed together.
REGION_PAGES = 32


@dataclass(frozen=True)
class Setup:
    """What a run is.

    :param run: a number that no other run has
    :param processes: worker processes; each has a place of its own, and one more for a child
    :param features: what can be done here: ``shared`` page tables; what only ``root`` may; ``exec``: pages
        are executed; ``reclaim`` from a control group
    :param control: descriptor of the control memory
    :param locks: descriptor of the file whose bytes are locked
    :param crash: descriptor of the file that takes Python's words when it crashes
    :param keepers: address of the supervisor's mappings of the guarded file, by access class
    :param cgroup: directory of the control group, empty: there is none
    """

    seed: int
    run: int
    processes: int
    features: frozenset[str]
    files: tuple[File, ...]
    control: int
    locks: int
    crash: int
    supervisor: int
    keepers: dict[int, int]
    cgroup: str

    @property
    def flags(self) -> int:
        """Flags of a mapping that is to be tried."""
        return SHARED_PT if "shared" in self.features else MAP_SHARED

    @property
    def descriptors(self) -> list[int]:
        """What a process must inherit."""
        own = [file.fd for file in self.files if file.fd >= 0]
        return [self.control, self.locks, self.crash, *own]

    @property
    def regions(self) -> int:
        """Regions of the guarded file, in each class."""
        return sum(file.pages // REGION_PAGES for file in self.files if file.role == "guard")

    def as_json(self) -> str:
        """For a process that was executed."""
        return json.dumps({**asdict(self), "features": sorted(self.features)})

    @classmethod
    def from_json(cls, text: str) -> "Setup":
        """What :meth:`as_json` told."""
        data: dict[str, Any] = json.loads(text)
        data["files"] = tuple(File(**file) for file in data["files"])
        data["features"] = frozenset(data["features"])
        data["keepers"] = {int(access): address for access, address in data["keepers"].items()}
        return cls(**data)
