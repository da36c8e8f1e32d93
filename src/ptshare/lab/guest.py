# SPDX-License-Identifier: MIT
"""Boot an image and run one command in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptshare.lab.console import Report
from ptshare.lab.image import Image

__all__ = ["GuestResult", "run_guest"]


@dataclass(frozen=True)
class GuestResult:
    """How a run ended.

    :param status: the command's exit status (128 + n if signal n ended it), ``None``: the guest ended without one
    :param timed_out: the guest was stopped because its time was up
    :param reports: what the kernel complained about; each is a failure of its own
    :param console: file with all that the kernel printed
    :param seconds_to_boot: wall-clock seconds from starting QEMU to starting the command, ``None``: never started
    """

    status: int | None
    timed_out: bool
    reports: tuple[Report, ...]
    console: Path
    seconds_to_boot: float | None

    @property
    def ok(self) -> bool:
        """The command ended with 0 and the kernel did not complain."""
        return self.status == 0 and not self.reports


def run_guest(
    argv: Sequence[str],
    *,
    image: Image,
    memory: str = "4G",
    cpus: int = 4,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: Callable[[bytes], object] | None = None,
    stderr: Callable[[bytes], object] | None = None,
    messages: Callable[[bytes], object] | None = None,
    timeout: float | None = None,
) -> GuestResult:
    """Boot ``image``, run ``argv`` as root with the host's files (changes to them stay in the guest), power off.

    :param memory: of the guest, such as ``4G``; the host gives it page by page, as the guest uses it
    :param cwd: directory to run in, default: the current one
    :param env: variables in addition to those that the guest sets itself
    :param stdout: called with what the command writes, as it comes; default: dropped
    :param stderr: the same for its standard error, kept apart from the kernel's console
    :param messages: called with what the guest writes to the file descriptor named by PTSHARE_MESSAGES_FD
    :param timeout: seconds of wall-clock time from starting QEMU; then the guest is stopped
    :raises LabError: QEMU or virtme-ng is missing, or the guest cannot be started
    """
    raise NotImplementedError
