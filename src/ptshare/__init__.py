# SPDX-License-Identifier: MIT
"""Page tables shared between processes (MAP_SHARED_PT)."""

from ptshare.mapping import Mapping
from ptshare.support import Support, UnsupportedError, probe

__all__ = ["Mapping", "Support", "UnsupportedError", "probe"]
