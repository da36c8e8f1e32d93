# SPDX-License-Identifier: MIT
"""The kernel held to the contract: random programs run by the model, :mod:`ptshare.spec`, and by real
processes.

``calls`` says what a program is. On the host, ``machine`` makes programs up and ``expected`` runs them on the
model; in a guest, which ``link`` starts, ``serve`` has them run by ``kernel``, through the processes of
``agents``. ``compare`` tells what is not the same, ``search`` looks for it, and ``script`` writes it down.
"""
