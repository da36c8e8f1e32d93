# SPDX-License-Identifier: MIT
"""Unmodified programs with shared page tables: their environment, the log that they write, and its report."""
