# SPDX-License-Identifier: MIT
"""Interleavings: what can go wrong when faults, flushes and unmapping meet, tried in all orders.

``explore`` tries all orders of the steps of two or three CPUs. ``world`` is what they see and change, and
what must hold. ``processors``, ``faults``, ``guests`` and ``changes`` are what is done, in the kernel's
order, as generators. A lock is taken in the step that first needs it, since nobody can tell the two apart;
what others can see without a lock is a step of its own; ``mistaken`` marks where a mistake can be made.
``catalogue`` has the races, and the mistakes that must be found; ``show`` prints. docs/races.md tells what is
modelled.
"""
