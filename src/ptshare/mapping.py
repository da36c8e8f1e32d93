# SPDX-License-Identifier: MIT
"""``Mapping``: a file in memory, through page tables that all processes share."""

import contextlib
import errno
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any, Literal, Self

from ptshare import _source, abi
from ptshare._source import File, HasFileno, Mode
from ptshare.report import Asked, Granted, PageTables, Report, check_asked
from ptshare.support import UnsupportedError, granule, probe

__all__ = ["Asked", "File", "Granted", "HasFileno", "Mapping", "Mode", "PageTables", "Report"]

_PROT = {"none": 0, "r": mmap.PROT_READ, "r+": mmap.PROT_READ | mmap.PROT_WRITE}


class Mapping(mmap.mmap):
    """A shared mapping of a file, with page tables that belong to the file.

    Every process that maps the same file in the same mode uses the same tables, at whatever address and in
    whatever window. It is an ``mmap.mmap`` and can be used as one: slices, ``memoryview``,
    ``numpy.frombuffer``, ``find``, ``flush``, ``madvise``; its buffer covers exactly the bytes asked for.
    ``resize`` is refused when the tables are shared.

    A file that becomes shorter than the mapping makes an access past its new end a SIGBUS, as for every
    mapping.

    :param file: path, open file object, file descriptor, or ``None`` for anonymous memory, which the
        children share. A file object or descriptor may be closed afterwards
    :param mode: ``"r"``: read, ``"r+"``: read and write. Readers and writers of one file have different
        tables, so that nobody gains a right through a table; so have ``"r"`` mappings of a file that is open
        for writing
    :param offset: bytes, where in the file the mapping begins; a multiple of the granule
    :param length: bytes, default: to the end of the file; at the kernel it is rounded up to whole granules
    :param page_tables: ``"shared"``: or else an error; ``"auto"``: shared if the kernel can for this file,
        else ordinary, see the attribute; ``"ordinary"``: as every kernel does
    :raises UnsupportedError: ``"shared"``, and the kernel cannot; an OSError with EOPNOTSUPP
    :raises PermissionError: ``"r+"`` of a file opened for reading
    :raises ValueError: an unknown mode, an unaligned offset, an empty file, a window that is not within the
        file
    :raises OverflowError: a negative offset or length, or one beyond ``sys.maxsize``
    :raises TypeError: an offset or length that is no integer
    :raises OSError: as open(2) and mmap(2); ENOMEM: more than the process has addresses or memory for
    """

    page_tables: PageTables
    """What was asked for and what was granted."""

    mode: Mode
    """As asked for."""

    offset: int
    """Bytes, where in the file the mapping begins."""

    _name: str
    #: Bytes mapped at the kernel, where they are more than the object's.
    _whole: int | None = None
    #: A descriptor of the file, where neither the object has one nor a path leads to it.
    _fd: int | None = None
    #: How another process finds the file, where a path leads to it.
    _path: _source.Path | None = None
    #: The process that has counted faults, and how many it had.
    _faults: tuple[int, int]

    def __new__(
        cls,
        file: File,
        mode: Mode = "r",
        *,
        offset: int = 0,
        length: int | None = None,
        page_tables: Asked = "shared",
    ) -> Self:
        """Map ``file``; see the class."""
        if mode not in ("r", "r+"):
            raise ValueError(f"mode must be 'r' or 'r+', not {mode!r}")
        check_asked(page_tables)
        offset, length = _source.check_window(offset, length, anonymous=file is None)
        if file is None:
            if length is None or offset:
                raise ValueError("anonymous memory needs a length and has no offset")
            return cls._anonymous(mode, length, page_tables)
        with _source.opened(file, mode) as fd:
            size = _source.window(fd, offset, length)
            self = cls._of(fd, mode, offset, size, page_tables)
            if isinstance(file, str | os.PathLike):
                status = os.fstat(fd)
                path = os.path.abspath(os.fsdecode(file))
                self._path = _source.Path(path, status.st_dev, status.st_ino)
            else:
                self._keep(fd)
        self._name = _name(file)
        return self

    @classmethod
    def _anonymous(cls, mode: Mode, length: int, asked: Asked) -> Self:
        """Map new memory. It is a file, so that processes that are no children can map it, too."""
        if asked == "auto" and length >= abi.PUD_SIZE_X86_64 and not probe().supported:
            from ptshare import _plain

            # No huge pages, or not enough of them.
            with contextlib.suppress(OSError):
                whole = _round_up(length, granule())
                with _source.anonymous(whole, _plain.MFD_HUGETLB) as fd:
                    return cls._of_anonymous(fd, mode, length, asked)
        with _source.anonymous(length) as fd:
            return cls._of_anonymous(fd, mode, length, asked)

    @classmethod
    def _of_anonymous(cls, fd: int, mode: Mode, length: int, asked: Asked) -> Self:
        self = cls._of(fd, mode, 0, length, asked)
        self._keep(fd)
        self._name = _name(None)
        return self

    @classmethod
    def _of(cls, fd: int, mode: Mode, offset: int, size: int, asked: Asked) -> Self:
        """Map a window of an open file."""
        try:
            self, granted, reason = cls._try(fd, mode, offset, size, asked)
        except PermissionError as error:
            if error.errno == errno.EACCES:
                _source.check_access(fd, mode)
            raise
        self.page_tables = PageTables(asked, granted, reason)
        self.mode = mode
        self.offset = offset
        self._faults = os.getpid(), _faults()
        return self

    @classmethod
    def _try(
        cls, fd: int, mode: Mode, offset: int, size: int, asked: Asked
    ) -> tuple[Self, Granted, str | None]:
        """Map with shared tables, or else as is asked; what was granted, and why they are not shared."""
        reason = None
        if asked != "ordinary":
            try:
                return cls._map_shared(fd, size, _PROT[mode], offset), "shared", None
            except UnsupportedError as error:
                if asked == "shared":
                    raise
                reason = error.reason
        self, granted = cls._map_plain(fd, size, _PROT[mode], offset, asked)
        return self, granted, reason

    @classmethod
    def _map(cls, fd: int, size: int, prot: int, flags: int, offset: int) -> Self:
        return super().__new__(cls, fd, size, flags=flags, prot=prot, offset=offset)

    @classmethod
    def _map_plain(
        cls, fd: int, size: int, prot: int, offset: int, asked: Asked
    ) -> tuple[Self, Literal["hugetlb", "ordinary"]]:
        """Map as kernels without the flag do."""
        # Most mappings are of files with small blocks: no need to load what looks closer.
        if os.fstat(fd).st_blksize > mmap.PAGESIZE or asked == "auto":
            from ptshare import _plain

            if _plain.on_hugetlbfs(fd):
                return cls._stand(
                    fd, size, prot, lambda: _plain.map_hugetlb(fd, size, prot, offset)
                ), "hugetlb"
            self = cls._map(fd, size, prot, mmap.MAP_SHARED, offset)
            if asked == "auto":
                _plain.ask_for_huge_pages(fd, self)
            return self, "ordinary"
        return cls._map(fd, size, prot, mmap.MAP_SHARED, offset), "ordinary"

    @classmethod
    def _map_shared(cls, fd: int, size: int, prot: int, offset: int) -> Self:
        flags = abi.MAP_SHARED_VALIDATE | abi.MAP_SHARED_PT
        whole = _round_up(size, granule())
        try:
            if size == whole:
                return cls._map(fd, size, prot, flags, offset)

            def beyond() -> tuple[int, int]:
                from ptshare import syscalls

                return syscalls.mmap(whole, prot, flags, fd, offset), whole

            return cls._stand(fd, size, prot, beyond)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            raise UnsupportedError(
                probe().reason or "the kernel does not share them for a file of this kind"
            ) from None

    @classmethod
    def _stand(cls, fd: int, size: int, prot: int, place: Callable[[], tuple[int, int]]) -> Self:
        """Make an object that shows ``size`` bytes of what ``place`` maps: an address, and how many bytes."""
        from ptshare import _window, syscalls

        address, whole = place()
        try:
            self = cls._map(-1, mmap.PAGESIZE, prot, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0)
            placeholder = _window.address_of(self)
            self._keep(fd)
            _window.stand_for(self, address, size)
        except BaseException:
            syscalls.munmap(address, whole)
            raise
        self._whole = whole
        syscalls.munmap(placeholder, mmap.PAGESIZE)
        return self

    def _keep(self, fd: int) -> None:
        if self._fd is None:
            self._fd = os.dup(fd)

    @property
    def address(self) -> int:
        """Where the mapping begins in this process.

        :raises ValueError: it is closed
        """
        from ptshare import _window

        return _window.address_of(self)

    def protect(self, mode: Literal["none", "r", "r+"], offset: int = 0, length: int | None = None) -> None:
        """Change what may be done with the memory (mprotect(2)): ``"none"``, ``"r"`` or ``"r+"``.

        With shared page tables the protection belongs to the file's tables: it changes for **every**
        process that has mapped the file in this mode, in one call, and when the call returns no CPU uses
        the old rights any more. An access that is not allowed is a SIGSEGV, through a Python object too; a
        system call that is given the memory fails with EFAULT.

        :param offset: bytes from the beginning of the mapping, a multiple of the page size
        :param length: bytes, rounded up to pages; default: to the end
        :raises PermissionError: more than the file was opened for; nothing has changed, for anyone
        :raises ValueError: the mapping is closed, the mode is unknown, or the window is not within the
            mapping
        :raises OSError: as mprotect(2)
        """
        from ptshare import syscalls

        if mode not in _PROT:
            raise ValueError(f"mode must be 'none', 'r' or 'r+', not {mode!r}")
        try:
            syscalls.mprotect(*self._range(offset, length), _PROT[mode])
        except PermissionError as error:
            if error.errno != errno.EACCES or self.mode == "r+":
                raise
            raise PermissionError(
                errno.EACCES,
                f"protect({mode!r}) needs a file that was opened for writing, and this mapping is of mode "
                f"{self.mode!r}: map it with 'r+'"
                # An ordinary mapping's protection is nobody else's, and may be lessened by any reader.
                + ("" if mode == "r+" else ", or with page_tables='ordinary'"),
            ) from None

    def advise(self, advice: str | int, offset: int = 0, length: int | None = None) -> None:
        """Tell the kernel how the memory will be used (madvise(2)).

        With shared page tables ``"pageout"``, ``"cold"`` and ``"remove"`` act on the file's pages, so for
        every process, and ``"dontneed"`` gives up this process's links to the tables of whole granules.

        :param advice: a name as ``"willneed"``, ``"random"``, ``"dontfork"``: what follows MADV_, in small
            letters; or the number
        :param offset: bytes from the beginning of the mapping, a multiple of the page size
        :param length: bytes, rounded up to pages; default: to the end
        :raises ValueError: the mapping is closed, the advice is unknown, or the window is not within the
            mapping
        :raises OSError: as madvise(2)
        """
        from ptshare import syscalls

        syscalls.madvise(*self._range(offset, length), _advice(advice))

    def populate(self, write: bool = False, offset: int = 0, length: int | None = None) -> None:
        """Bring all pages in, and fill the page tables (madvise(2), MADV_POPULATE_READ; Linux 5.14).

        With shared page tables other processes find them filled.

        :param write: as by a write to each page (MADV_POPULATE_WRITE): memory is allocated where the file has
            holes, and all pages are dirty
        :param offset: bytes from the beginning of the mapping, a multiple of the page size
        :param length: bytes, rounded up to pages; default: to the end
        :raises ValueError: the mapping is closed, or the window is not within the mapping
        :raises OSError: as madvise(2); EFAULT: the file ends before the window does
        """
        from ptshare import syscalls

        advice = abi.MADV_POPULATE_WRITE if write else abi.MADV_POPULATE_READ
        address, size = self._range(offset, length, beyond=False)  # there is no page beyond the file's end
        syscalls.madvise(address, size, advice)

    def lock(self, offset: int = 0, length: int | None = None) -> None:
        """Bring the pages in and keep them in memory (mlock(2)), until this process unlocks or unmaps them or
        ends.

        :param offset: bytes from the beginning of the mapping, a multiple of the page size; of the granule
            where the page tables are shared
        :param length: bytes, rounded up to pages; a multiple of the granule where the page tables are shared;
            default: to the end
        :raises ValueError: the mapping is closed, or the window is not within the mapping
        :raises OSError: as mlock(2); ENOMEM: more than RLIMIT_MEMLOCK allows; EINVAL: not whole granules
        """
        from ptshare import syscalls

        if self._whole is None:
            syscalls.mlock(*self._range(offset, length))
        else:
            # mlock() would want pages beyond the file's end, too.
            syscalls.mlock2(*self._range(offset, length), syscalls.MLOCK_ONFAULT)
            self.populate(False, offset, length)

    def unlock(self, offset: int = 0, length: int | None = None) -> None:
        """Undo :meth:`lock` (munlock(2)); parameters and errors are the same."""
        from ptshare import syscalls

        syscalls.munlock(*self._range(offset, length))

    def resident(self) -> int:
        """Bytes of the mapping that are in memory, whole pages of them (mincore(2)).

        The kernel tells it to those that own the file or may write to it; others hear that all of it is.

        :raises ValueError: the mapping is closed
        """
        from ptshare import syscalls

        address, length = self.address, len(self)
        return min(length, sum(page & 1 for page in syscalls.mincore(address, length)) * mmap.PAGESIZE)

    def available(self) -> int:
        """Bytes of the mapping that the file has now, from the mapping's beginning on.

        Less than ``len(mapping)``: the file has been truncated, and an access to a page beyond is a SIGBUS.

        :raises ValueError: the mapping is closed
        """
        return max(0, min(len(self), self.size() - self.offset))

    def report(self) -> Report:
        """What page tables the mapping has in this process now.

        It reads a pagemap entry for each page, 2 MiB for a mapping of 1 GiB.

        :raises ValueError: the mapping is closed
        """
        from ptshare import report

        start = self.address
        end = start + _round_up(len(self), mmap.PAGESIZE)
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            lead = start % granule() // mmap.PAGESIZE * report.PAGEMAP_ENTRY
            pagemap = bytes(lead) + os.pread(
                file.fileno(),
                (end - start) // mmap.PAGESIZE * report.PAGEMAP_ENTRY,
                start // mmap.PAGESIZE * report.PAGEMAP_ENTRY,
            )
        with open("/proc/self/smaps") as lines:
            huge = report.huge_bytes(lines, start, start + (self._whole or end - start))
        tables = report.populated_tables(pagemap, granule(), mmap.PAGESIZE)
        own = max(0, tables - huge // granule())
        shared = self.page_tables.granted == "shared"
        pid, faults = self._faults
        return Report(
            page_tables=self.page_tables,
            own_tables=0 if shared else own,
            shared_tables=own if shared else 0,
            huge=huge,
            faults=_faults() - (faults if pid == os.getpid() else 0),
        )

    def _range(self, offset: int, length: int | None, beyond: bool = True) -> tuple[int, int]:
        """Address and bytes of a window.

        :param beyond: a window that ends with the mapping ends where the kernel's mapping does
        """
        address = self.address
        offset = _source.number("offset", offset)
        length = None if length is None else _source.number("length", length)
        if offset % mmap.PAGESIZE:
            raise ValueError(f"offset must be a multiple of the page size, {mmap.PAGESIZE}, not {offset}")
        end = len(self) if length is None else offset + length
        if not 0 <= offset < end <= len(self):
            raise ValueError(f"bytes {offset} to {end} are not within a mapping of {len(self)} bytes")
        if end == len(self) and beyond:
            end = self._whole or end
        return address + offset, end - offset

    def resize(self, newsize: int) -> None:
        """Change the size of mapping and file, as ``mmap.mmap`` does.

        :raises ValueError: the page tables are not ordinary ones
        """
        if self.page_tables.granted != "ordinary":
            raise ValueError(
                f"a mapping with {self.page_tables.granted} page tables keeps its size; "
                "resize the file and map it again"
            )
        super().resize(newsize)

    def size(self) -> int:
        """Bytes of the file now."""
        if self._fd is None or self.closed:
            return super().size()
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Unmap; nothing if it is closed already. Other processes notice nothing.

        :raises BufferError: a ``memoryview``, array or the like of the mapping is alive
        """
        if self._whole is None or self.closed:
            super().close()
        else:
            from ptshare import _window

            # The kernel unmaps whole granules only, so the object stands for all that was mapped while it
            # lets go.
            address, size = self.address, len(self)
            _window.stand_for(self, address, self._whole)
            try:
                super().close()
            except BufferError:
                _window.stand_for(self, address, size)
                raise
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    def __del__(self, _ending: Callable[[], bool] = sys.is_finalizing) -> None:
        """Unmap all that was mapped, also where nobody called ``close``.

        Where the interpreter ends, modules are gone that this needs, and the process will be.
        """
        if not _ending() and not self.closed:
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Attach to the same window of the same file where it is unpickled.

        A file that was given by its path is opened again. One that was given open, and anonymous memory, is
        sent as a descriptor, which multiprocessing does: to a process that is being started, or once through
        a queue or pipe while this process lives.

        :raises ValueError: the mapping is closed
        """
        length = len(self)
        source: _source.Path | _source.Inherited
        if self._path is not None:
            source = self._path
        else:
            from multiprocessing.reduction import DupFd

            assert self._fd is not None
            source = _source.Inherited(DupFd(self._fd))
        return _receive, (
            type(self),
            source,
            self.mode,
            self.offset,
            length,
            self.page_tables.asked,
            self._name,
        )

    def __copy__(self) -> Self:
        """Refused: a copy of memory is what ``bytes`` makes of it, and a second mapping is mapped."""
        raise TypeError(f"cannot copy {type(self).__name__!r} object; map the file again")

    def __deepcopy__(self, memo: object) -> Self:
        """Refused, as a copy."""
        return self.__copy__()

    def __repr__(self) -> str:
        """What is mapped, and how."""
        if self.closed:
            return f"<ptshare.Mapping of {self._name}, closed>"
        return (
            f"<ptshare.Mapping of {self._name}, {self.mode!r}, {len(self)} bytes from {self.offset}, "
            f"{self.page_tables.granted} page tables>"
        )


def _receive(
    cls: type[Mapping],
    source: "_source.Path | _source.Inherited",
    mode: Mode,
    offset: int,
    length: int,
    asked: Asked,
    name: str,
) -> Mapping:
    """A mapping that was pickled."""
    with source.opened(mode) as fd:
        self = cls(fd, mode, offset=offset, length=length, page_tables=asked)
    if isinstance(source, _source.Path):
        self._path = source
        if self._whole is None and self._fd is not None:
            os.close(self._fd)
            self._fd = None
    self._name = name
    return self


def _advice(advice: str | int) -> int:
    if isinstance(advice, int):
        return advice
    names = {
        name.removeprefix("MADV_").lower(): getattr(module, name)
        for module in (abi, mmap)
        for name in vars(module)
        if name.startswith("MADV_")
    }
    if advice not in names:
        raise ValueError(f"advice must be one of {', '.join(sorted(names))}, not {advice!r}")
    number: int = names[advice]
    return number


def _faults() -> int:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _name(file: File) -> str:
    if file is None:
        return "anonymous memory"
    if isinstance(file, int):
        return f"descriptor {file}"
    if isinstance(file, str | os.PathLike):
        return repr(os.fspath(file))
    return repr(getattr(file, "name", file))
