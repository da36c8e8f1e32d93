# SPDX-License-Identifier: MIT
"""``ptshare audit``: what page tables cost on a live host, which files and processes cause it, and what would
help. Any kernel will do; nothing is changed on the host.

``proc`` and ``ioctls`` read what the kernel tells of processes, ``host`` what it tells of the machine;
``objects`` knows what can be mapped, ``collect`` puts it all together, and ``model`` is what comes out: the
host, its processes and the objects that they have mapped.
``snapshot`` keeps it in a file; ``verdict``, ``table``, ``rows``, ``prometheus`` and ``plot`` show it.
"""
