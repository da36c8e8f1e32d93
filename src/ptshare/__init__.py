# SPDX-License-Identifier: MIT
"""Page tables shared between processes (MAP_SHARED_PT)."""
