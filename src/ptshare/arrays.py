# SPDX-License-Identifier: MIT
"""``memmap``: numpy arrays in files, through page tables that all processes share. Needs numpy."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from ptshare.mapping import Mapping
from ptshare.report import Asked, check_asked
from ptshare.support import UnsupportedError, granule, probe

if TYPE_CHECKING:
    import numpy
    from numpy.typing import DTypeLike

__all__ = ["memmap"]

#: As numpy.memmap.
MemmapMode = Literal["r", "readonly", "r+", "readwrite", "w+", "write", "c", "copyonwrite"]


def memmap(
    filename: Any,
    dtype: "DTypeLike | None" = None,
    mode: MemmapMode = "r+",
    offset: int = 0,
    shape: int | tuple[int, ...] | None = None,
    order: Literal["C", "F"] = "C",
    *,
    page_tables: Asked = "auto",
) -> "numpy.memmap[Any, Any]":
    """A ``numpy.memmap`` of a file, with page tables that belong to the file.

    Parameters, result and errors are ``numpy.memmap``'s, in its order. Any offset will do: the granules that
    hold the array are mapped. What was granted is told by ``array.base``, which is the
    :class:`ptshare.Mapping`: ``array.base.page_tables``, ``array.base.report()``.

    As every numpy array it is pickled with its data; a worker that is to share it opens it by its name.

    An argument that is refused leaves the file as it was, where ``numpy.memmap`` may have emptied it.

    :param filename: path, str, bytes or os.PathLike; or an open file object
    :param dtype: default: ``numpy.uint8``
    :param mode: ``"r"``, ``"r+"``, ``"w+"``; ``"c"`` (copy on write) is private memory, which has ordinary
        page tables in any case
    :param offset: bytes, where in the file the array begins
    :param shape: default: all that follows in the file, in one dimension
    :param order: ``"C"`` or ``"F"``
    :param page_tables: as :class:`ptshare.Mapping`; ``"auto"``, since a drop-in has to run everywhere
    :raises ImportError: numpy is not installed
    :raises ptshare.UnsupportedError: ``page_tables="shared"``, and the kernel cannot
    :raises ValueError: as ``numpy.memmap``; ``page_tables="shared"`` of mode ``"c"``
    """
    import numpy

    private = mode in ("c", "copyonwrite")
    if private and page_tables == "shared":
        raise ValueError("mode 'c' is private memory, whose page tables cannot be shared; use 'r' or 'r+'")
    check_asked(page_tables)
    dtype = numpy.uint8 if dtype is None else dtype
    if mode in ("w+", "write", "r+", "readwrite") and shape is not None:
        # Whatever is refused is to be refused while the file is still what it was. numpy empties or extends
        # it before it has looked at all arguments, so it first does so to memory of no name.
        if page_tables == "shared" and (reason := probe().reason):
            raise UnsupportedError(reason)
        if isinstance(shape, Iterator):
            shape = tuple(shape)  # it is read twice
        with os.fdopen(os.memfd_create("ptshare-trial", os.MFD_CLOEXEC), "w+b") as trial:
            numpy.memmap(trial, dtype, mode, offset, shape, order)
    # numpy checks, opens, extends the file and does the arithmetic. What it maps is not touched.
    plain: numpy.memmap[Any, Any] = numpy.memmap(filename, dtype, mode, offset, shape, order)
    if private:
        return plain
    start = plain.offset - plain.offset % granule()
    lead = plain.offset - start
    if not lead + plain.nbytes and start:
        # No elements, at the end of the file perhaps: they stand at the end of the granule before.
        start, lead = start - granule(), granule()
    mapping = Mapping(
        os.fsdecode(filename) if isinstance(filename, bytes) else filename,
        "r" if plain.mode == "r" else "r+",
        offset=start,
        # An array of no elements needs some memory to stand on.
        length=max(1, lead + plain.nbytes),
        page_tables=page_tables,
    )
    array = numpy.ndarray.__new__(numpy.memmap, plain.shape, plain.dtype, mapping, lead, plain.strides)
    # What numpy.memmap gives its arrays, lib/_memmap_impl.py.
    vars(array).update(_mmap=mapping, offset=plain.offset, mode=plain.mode, filename=plain.filename)
    return array
