# SPDX-License-Identifier: MIT
"""What the standard mmap module cannot do: map past the end of a file, and mprotect.

``mmap.mmap`` refuses a length beyond the end of the file, the kernel wants whole granules. So for a file
that does not end on a granule the mapping is made here, and an ``mmap.mmap`` object is made to stand for
the part of it that was asked for.
"""

import ctypes
import functools
import mmap
import os

__all__ = ["address_of", "map_whole", "protect", "stand_for", "unmap"]

_MAP_FAILED = ctypes.c_void_p(-1).value


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


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


def _os_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


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


def map_whole(size: int, prot: int, flags: int, fd: int, offset: int) -> int:
    """mmap(2) at an address of the kernel's choice, without a look at the file's size.

    :returns: the address
    :raises OSError: as mmap(2)
    """
    address = _libc().mmap(None, size, prot, flags, fd, offset)
    if address == _MAP_FAILED:
        raise _os_error()
    return int(address)


def unmap(address: int, size: int) -> None:
    """munmap(2).

    :raises OSError: as munmap(2)
    """
    if _libc().munmap(address, size):
        raise _os_error()


def protect(address: int, size: int, prot: int) -> None:
    """mprotect(2).

    :raises OSError: as mprotect(2); PermissionError for EACCES
    """
    if _libc().mprotect(address, size, prot):
        raise _os_error()


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
