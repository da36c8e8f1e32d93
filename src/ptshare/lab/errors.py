# SPDX-License-Identifier: MIT
"""What can go wrong in the lab."""

__all__ = ["LabError"]


class LabError(Exception):
    """The lab cannot do what was asked. The message is one line: what is wrong and what to do about it."""
