# SPDX-License-Identifier: MIT
"""``ptshare top``: the audit of this host as a live view of the whole terminal.

``sample`` reads the host, ``rows`` makes tables of two samples, ``state`` is what has been chosen by keys,
``details`` has the texts of help and details, and ``draw`` lays all out as lines. Only ``app`` knows
textual, the library that has the terminal.
"""
