# SPDX-License-Identifier: MIT
"""Other people's tests, on the kernel as Debian has it and on ours: the kernel's own selftests of mm, and
stress-ng. What they find on the one they should find on the other.
"""
