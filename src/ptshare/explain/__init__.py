# SPDX-License-Identifier: MIT
"""``ptshare explain``: the picture of who links to which page table.

``picture`` is the picture as data. It comes from the model, which runs a ``script`` (``model``), or from the
page tables of the kernel (``kernel``), where real processes can run the same script (``live``). ``compare``
tells how two pictures differ, ``text`` and ``svg`` draw them.
"""
