# SPDX-License-Identifier: MIT
"""``mmap.mmap`` objects that stand for memory which was mapped without them.

``mmap.mmap`` refuses a length beyond the end of the file, and takes no address; the kernel wants whole
granules or huge pages. So where that differs the memory is mapped by a system call, and an ``mmap.mmap``
object is made to stand for the part of it that was asked for.
"""

import ctypes
import mmap

__all__ = ["address_of", "stand_for"]


class _MmapObject(ctypes.Structure):
    """The first fields of ``mmap_object`` after the object's head; Modules/mmapmodule.c, the same in
    CPython 3.8 to 3.14."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_ssize_t))


class _PyBuffer(ctypes.Structure):
    """``Py_buffer`` of CPython's stable ABI."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def address_of(mapping: mmap.mmap) -> int:
    """Where ``mapping`` begins in the calling process.

    :raises ValueError: it is closed
    """
    view = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapping), ctypes.byref(view), 0)
    address = view.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    assert address is not None
    return int(address)


def stand_for(mapping: mmap.mmap, address: int, size: int) -> None:
    """Make ``mapping`` stand for other memory of the calling process; what it stood for stays mapped.

    :raises NotImplementedError: this Python's mmap object looks different from the ones known; nothing was
        changed
    """
    fields = _MmapObject.from_address(id(mapping) + object.__basicsize__)
    if (fields.data, fields.size) != (address_of(mapping), len(mapping)):
        raise NotImplementedError(
            "this Python's mmap object has a layout that ptshare does not know; "
            "map a length that is a multiple of the granule and within the file"
        )
    fields.data, fields.size = address, size
