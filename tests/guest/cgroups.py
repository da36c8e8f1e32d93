# SPDX-License-Identifier: MIT
"""Memory cgroups (version 2) of a test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from held import settles

_ROOT = Path("/sys/fs/cgroup")


class Group:
    """A cgroup, and what the kernel has charged to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def enter(self, pid: int) -> None:
        """Move a process there. What it was charged for stays where it was."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def limit(self, size: int) -> None:
        (self.path / "memory.max").write_text(str(size))
        (self.path / "memory.swap.max").write_text("0")

    def processes(self) -> list[int]:
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    def peak(self) -> int:
        """The most that was ever charged, bytes."""
        return int((self.path / "memory.peak").read_text())

    def events(self, name: str) -> int:
        """A count of memory.events."""
        return self._table("memory.events")[name]

    def stat(self, name: str) -> int:
        """A figure of memory.stat, bytes if it is one of memory."""
        # Brings in what the CPUs have counted on their own; memory.stat alone does so every two seconds.
        (self.path / "cpu.stat").read_text()
        return self._table("memory.stat")[name]

    def dying(self) -> int:
        """Removed cgroups below it that something is still charged to."""
        return self._table("cgroup.stat")["nr_dying_descendants"]

    def remove(self) -> None:
        self.path.rmdir()

    def _table(self, name: str) -> dict[str, int]:
        lines = (line.split() for line in (self.path / name).read_text().splitlines())
        return {key: int(value) for key, value in lines}


@contextmanager
def group(name: str, parent: Group | None = None) -> Iterator[Group]:
    """A cgroup without limits; at the end its processes are killed, and it is removed if it is there yet."""
    if parent:
        (parent.path / "cgroup.subtree_control").write_text("+memory")
    made = Group((parent.path if parent else _ROOT) / f"ptshare-{name}")
    made.path.mkdir()
    try:
        yield made
    finally:
        if made.path.exists():
            (made.path / "cgroup.kill").write_text("1")
            assert settles(made.processes, [])
            made.remove()


def oom_kills() -> int:
    """Processes that the OOM killer has killed, in all cgroups together."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return int(dict(line.split() for line in lines)["oom_kill"])
