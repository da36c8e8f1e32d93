# SPDX-License-Identifier: MIT
"""The contract as a program: what MAP_SHARED_PT promises, small enough to be read, exact enough to be run.

Files have pages, processes have mappings, domains have a host's page tables, and processes link to them. Each
operation of :class:`ptshare.spec.system.System` returns what its caller sees. ``entries`` and ``tables`` are
page tables as x86-64 has them, ``files`` is the page cache, ``state`` is all that there is, ``faults`` is the
fault, ``invariants`` is what must hold after each step, ``shows`` is what the kernel shows of it. The calls
stand by subject in ``address_space``, ``protection``, ``locking``, ``advice`` and ``changes``. ``races`` is
the same mechanism in smaller steps, in all orders that they can have. Nothing here knows the rest of the
package: only tests tie it to the kernel.
"""
