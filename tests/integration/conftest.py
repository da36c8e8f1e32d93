# SPDX-License-Identifier: MIT
"""Loads what these tests need. Apart from it, since mypy knows but one file of this name."""

from integration_fixtures import idle, place, programs, pytest_collection_finish

__all__ = ["idle", "place", "programs", "pytest_collection_finish"]
