# SPDX-License-Identifier: MIT
"""``ptshare demo``: what sharing page tables saves, measured by the kernel's own counters.

``files`` makes the files, ``crew`` and ``worker`` the processes, ``measure`` has them map and touch and
reads the counters, ``proof`` judges, ``report`` prints, ``session`` is the whole in order.
"""
