# SPDX-License-Identifier: MIT
"""From the kernel's source to a bootable image: the stages in order."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Image", "Progress", "build_image"]


@dataclass(frozen=True)
class Progress:
    """How far a build is.

    :param stage: ``fetch``, ``unpack``, ``apply``, ``configure``, ``build`` or ``cached``
    :param done: steps of this stage that are done
    :param total: steps that this stage will take, an estimate while it runs; 0: not known
    :param seconds_left: estimate for this stage, ``None``: not known yet
    """

    stage: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True)
class Image:
    """A kernel that can be booted.

    :param bzimage: the compressed kernel
    :param config: name of the fragment it was built with, ``base`` or ``debug``
    :param version: the source's version, such as ``6.12.117``
    """

    bzimage: Path
    config: str
    version: str


def build_image(config: str = "base", progress: Callable[[Progress], None] | None = None) -> Image:
    """Fetch, apply, configure and build; at once if an image of the same content is in the cache.

    :raises LabError: a tool or the source package is missing, the disk is full, the series does not apply, the
        configuration is unknown, or the compiler failed
    """
    raise NotImplementedError
