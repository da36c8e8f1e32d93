# SPDX-License-Identifier: MIT
"""What can go wrong in the demo."""

__all__ = ["CannotRunError", "ProcessFailedError"]


class CannotRunError(Exception):
    """The demo cannot be run here. The message is one line: what was wanted, what was found, what to do."""


class ProcessFailedError(Exception):
    """One of the demo's processes died or failed. The message is one line that says which and how."""
