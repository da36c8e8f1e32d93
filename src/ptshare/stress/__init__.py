# SPDX-License-Identifier: MIT
"""``ptshare stress``: processes that do at random what programs do with shared page tables, and check every
page and every right.

``session`` is the whole in order: it makes the ``files``, the ``control`` memory that all processes have
mapped, the memory ``pressure``, and the processes; it kills some and starts them again. ``worker`` is what a
process does: ``sequence`` draws, ``operations`` are what can be drawn. ``content`` knows what a page must
hold, ``report`` prints.
"""
