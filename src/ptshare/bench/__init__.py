# SPDX-License-Identifier: MIT
"""Measurements of shared page tables against other ways, in a guest of the lab: docs/bench.md.

runs (what is measured) -> program (compiled here) -> guest (does it, there) -> results -> bars, text, plot
"""
