# SPDX-License-Identifier: MIT
"""``ptshare.Mapping`` where the kernel cannot share page tables, and where it takes the flag.

For the second a flag value of 0 stands in for MAP_SHARED_PT: every kernel takes it, maps ordinarily, and
all that is done on this side of the system call is the same. That tables are shared is shown in
tests/guest/test_library.py.
"""

import errno
import faulthandler
import gc
import io
import mmap
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ptshare
from mapping_fixtures import GRANULE, make
from ptshare import _window, abi

#: Granule by granule, and with a tail that is no whole page.
SIZES = [1, 5000, GRANULE - 1, GRANULE, 2 * GRANULE, 3 * GRANULE + 4097]


pytestmark = pytest.mark.usefixtures("nothing_leaked")


# On this kernel.


def test_shared_is_refused_where_the_kernel_cannot(tmp_path: Path) -> None:
    with pytest.raises(ptshare.UnsupportedError, match="does not have MAP_SHARED_PT") as caught:
        ptshare.Mapping(make(tmp_path, GRANULE))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("length", [1, GRANULE])
def test_anonymous_shared_is_refused_where_the_kernel_cannot(length: int) -> None:
    with pytest.raises(ptshare.UnsupportedError, match="does not have MAP_SHARED_PT"):
        ptshare.Mapping(None, "r+", length=length)


@pytest.mark.parametrize("size", SIZES)
def test_auto_maps_ordinarily_and_says_so(tmp_path: Path, size: int) -> None:
    path = make(tmp_path, size)
    with ptshare.Mapping(path, page_tables="auto") as mapping:
        assert mapping.page_tables.granted == "ordinary"
        assert mapping[:] == path.read_bytes()


def test_auto_maps_anonymous_memory_ordinarily() -> None:
    with ptshare.Mapping(None, "r+", length=5000, page_tables="auto") as mapping:
        assert (mapping.page_tables.granted, len(mapping)) == ("ordinary", 5000)


# Where the kernel takes the flag.


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize("size", SIZES)
def test_the_buffer_is_the_file(tmp_path: Path, size: int) -> None:
    path = make(tmp_path, size)
    data = path.read_bytes()
    with ptshare.Mapping(path) as mapping:
        assert mapping.page_tables.granted == "shared"
        assert len(mapping) == mapping.size() == size
        assert mapping[:] == data
        assert mapping[::4096] == data[::4096]
        assert mapping.find(data[-1:], size - 1) == size - 1
        with memoryview(mapping) as view:
            assert (view.nbytes, view.format, view.readonly) == (size, "B", True)
            assert view[size // 2] == data[size // 2]
        assert np.frombuffer(mapping, np.uint8).sum() == sum(data)


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize("size", SIZES)
def test_writes_reach_the_file(tmp_path: Path, size: int) -> None:
    path = make(tmp_path, size)
    with ptshare.Mapping(path, "r+") as mapping:
        mapping[size - 1] = 7
        mapping[0:1] = b"\xfe"
        mapping.flush()
    assert path.read_bytes()[-1] == (7 if size > 1 else 0xFE)
    assert path.read_bytes()[0] == 0xFE
    assert path.stat().st_size == size


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 100), (GRANULE, GRANULE), (GRANULE, 5), (2 * GRANULE, None)]
)
def test_a_window(tmp_path: Path, offset: int, length: int | None) -> None:
    path = make(tmp_path, 2 * GRANULE + 12345)
    with ptshare.Mapping(path, offset=offset, length=length) as mapping:
        assert mapping[:] == path.read_bytes()[offset:][:length]
        assert mapping.offset == offset


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize("size", SIZES)
def test_all_that_was_mapped_is_unmapped(tmp_path: Path, size: int) -> None:
    mapping = ptshare.Mapping(make(tmp_path, size))
    address, whole = mapping.address, -(-size // GRANULE) * GRANULE
    assert mapped_at(address) == whole
    mapping.close()
    mapping.close()
    assert mapping.closed
    assert mapped_at(address) == 0


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize("size", SIZES)
def test_a_forgotten_mapping_is_unmapped(tmp_path: Path, size: int) -> None:
    mapping = ptshare.Mapping(make(tmp_path, size))
    address = mapping.address
    del mapping
    gc.collect()
    assert mapped_at(address) == 0


def mapped_at(address: int) -> int:
    """Bytes that this process has mapped of a test's file from ``address`` on."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) == address and "ptshare-test" in line:
            return int(end, 16) - address
    return 0


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize("size", [GRANULE, GRANULE + 1])
def test_close_waits_for_views(tmp_path: Path, size: int) -> None:
    mapping = ptshare.Mapping(make(tmp_path, size))
    view = memoryview(mapping)[1:]
    with pytest.raises(BufferError):
        mapping.close()
    with pytest.raises(BufferError), mapping:
        pass
    assert len(mapping) == size
    assert view.nbytes == size - 1
    view.release()
    mapping.close()


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize("size", [GRANULE, GRANULE + 1])
def test_a_closed_mapping_says_so(tmp_path: Path, size: int) -> None:
    mapping = ptshare.Mapping(make(tmp_path, size))
    mapping.close()
    for use in (
        lambda: mapping[0],
        lambda: len(mapping),
        lambda: memoryview(mapping),
        lambda: mapping.address,
        mapping.flush,
        lambda: mapping.protect("r"),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert "closed" in repr(mapping)


@pytest.mark.usefixtures("flag_taken")
def test_repr_tells_what_is_mapped(tmp_path: Path) -> None:
    path = make(tmp_path, 5000)
    with ptshare.Mapping(path, "r+") as mapping:
        assert repr(mapping) == f"<ptshare.Mapping of '{path}', 'r+', 5000 bytes from 0, shared page tables>"
    with ptshare.Mapping(None, "r+", length=8, page_tables="ordinary") as mapping:
        assert "anonymous memory" in repr(mapping)


@pytest.mark.usefixtures("flag_taken")
def test_from_a_file_object_and_from_a_descriptor_that_are_closed_afterwards(tmp_path: Path) -> None:
    path = make(tmp_path, 5000)
    with path.open("rb") as file:
        from_object = ptshare.Mapping(file)
        from_descriptor = ptshare.Mapping(file.fileno())
    assert from_object[:] == from_descriptor[:] == path.read_bytes()
    from_object.close()
    from_descriptor.close()


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize("length", [8, GRANULE, GRANULE + 8])
def test_anonymous_memory_is_shared_with_children(length: int) -> None:
    with ptshare.Mapping(None, "r+", length=length) as mapping:
        assert mapping.page_tables.granted == "shared"
        pid = os.fork()
        if pid == 0:
            mapping[length - 1] = 42
            os._exit(0)
        os.waitpid(pid, 0)
        assert mapping[length - 1] == 42


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize("size", [2 * GRANULE, GRANULE + 5000])
def test_protect(tmp_path: Path, size: int) -> None:
    with ptshare.Mapping(make(tmp_path, size), "r+") as mapping:
        mapping.protect("r", 4096, 5000)
        assert [writable(mapping, at) for at in (0, 4096, 8192, 12288)] == [True, False, False, True]
        mapping.protect("none")
        assert not writable(mapping, 0)
        assert not writable(mapping, size - 1)
        mapping.protect("r+")
        assert writable(mapping, size - 1)


def writable(mapping: ptshare.Mapping, at: int) -> bool:
    """A system call may write there: a refusal is an error, where an access of the program's own would be a
    SIGSEGV.
    """
    with open("/dev/zero", "rb", buffering=0) as zero, memoryview(mapping)[at : at + 1] as byte:
        try:
            return zero.readinto(byte) == 1
        except OSError as error:
            if error.errno == errno.EFAULT:
                return False
            raise


@pytest.mark.usefixtures("flag_taken")
def test_an_access_against_the_protection_is_a_segfault(tmp_path: Path) -> None:
    with ptshare.Mapping(make(tmp_path, GRANULE), "r+") as mapping:
        mapping.protect("r")
        pid = os.fork()
        if pid == 0:
            faulthandler.disable()
            mapping[0] = 1
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV


@pytest.mark.usefixtures("flag_taken")
@pytest.mark.parametrize("size", [GRANULE, 5000])
def test_no_right_beyond_the_descriptor(tmp_path: Path, size: int) -> None:
    with ptshare.Mapping(make(tmp_path, size)) as mapping:
        with pytest.raises(PermissionError, match=r"this mapping is of mode 'r': map it with 'r\+'$"):
            mapping.protect("r+")
        with pytest.raises(TypeError):
            mapping[0] = 1


@pytest.mark.usefixtures("flag_taken")
def test_bad_windows_of_protect(tmp_path: Path) -> None:
    with ptshare.Mapping(make(tmp_path, GRANULE), "r+") as mapping:
        for offset, length in [
            (1, None),
            (0, 0),
            (0, GRANULE + 1),
            (GRANULE, None),
            (-4096, 4096),
            (4096, -1),
        ]:
            with pytest.raises(ValueError, match=r"must be a multiple|not within"):
                mapping.protect("r", offset, length)
        with pytest.raises(ValueError, match="mode must be"):
            mapping.protect("w")  # type: ignore[arg-type]
        assert writable(mapping, 0)


@pytest.mark.usefixtures("flag_taken")
def test_resize_is_for_ordinary_tables(tmp_path: Path) -> None:
    path = make(tmp_path, GRANULE)
    with ptshare.Mapping(path, "r+") as mapping, pytest.raises(ValueError, match="keeps its size"):
        mapping.resize(2 * GRANULE)
    assert path.stat().st_size == GRANULE
    with ptshare.Mapping(path, "r+", page_tables="ordinary") as mapping:
        mapping.resize(2 * GRANULE)
        assert len(mapping) == 2 * GRANULE


@pytest.mark.usefixtures("flag_taken")
def test_an_unknown_layout_of_the_mmap_object_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, 5000)
    monkeypatch.setattr(_window, "address_of", lambda _: 1)
    with pytest.raises(NotImplementedError, match="multiple of the granule"):
        ptshare.Mapping(path)


# Bad input. ``page_tables`` makes no difference: "ordinary" would map all of it if it were good.


@pytest.fixture(params=["shared", "auto", "ordinary"])
def page_tables(request: pytest.FixtureRequest, flag_taken: None) -> ptshare.mapping.Asked:
    """Each way to ask."""
    choice: ptshare.mapping.Asked = request.param
    return choice


def test_files_that_cannot_be_mapped(tmp_path: Path, page_tables: ptshare.mapping.Asked) -> None:
    empty, fifo = tmp_path / "empty", tmp_path / "fifo"
    empty.touch()
    os.mkfifo(fifo)
    with pytest.raises(ValueError, match=r"cannot mmap an empty file; give it its size first \(os.truncate"):
        ptshare.Mapping(empty, page_tables=page_tables)
    with pytest.raises(IsADirectoryError):
        ptshare.Mapping(tmp_path, page_tables=page_tables)
    with pytest.raises(IsADirectoryError):
        ptshare.Mapping(tmp_path, "r+", page_tables=page_tables)
    with pytest.raises(OSError, match="cannot be mapped") as caught:
        ptshare.Mapping(fifo, length=4096, page_tables=page_tables)
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(FileNotFoundError):
        ptshare.Mapping(tmp_path / "none", page_tables=page_tables)
    with pytest.raises(ValueError, match="a device needs a length"):
        ptshare.Mapping("/dev/zero", page_tables=page_tables)


def test_descriptors_that_cannot_be_mapped(tmp_path: Path, page_tables: ptshare.mapping.Asked) -> None:
    ends = os.pipe()
    with pytest.raises(OSError, match="cannot be mapped"):
        ptshare.Mapping(ends[0], length=1, page_tables=page_tables)
    for end in ends:
        os.close(end)
    for closed in (ends[0], -1):
        with pytest.raises(OSError, match=r".") as caught:
            ptshare.Mapping(closed, length=1, page_tables=page_tables)
        assert caught.value.errno == errno.EBADF
    with pytest.raises(
        OSError, match=r"-1 is no file descriptor; for anonymous memory.* give None and a len"
    ):
        ptshare.Mapping(-1, length=1, page_tables=page_tables)
    file = make(tmp_path, 5000).open("rb")
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        ptshare.Mapping(file, page_tables=page_tables)
    with pytest.raises(io.UnsupportedOperation):
        ptshare.Mapping(io.BytesIO(b"x"), page_tables=page_tables)
    with pytest.raises(TypeError, match="must be a path"):
        ptshare.Mapping(1.5, page_tables=page_tables)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [GRANULE, 5000])
def test_a_file_opened_for_reading_is_not_written(
    tmp_path: Path, page_tables: ptshare.mapping.Asked, size: int
) -> None:
    path = make(tmp_path, size)
    with (
        path.open("rb") as file,
        pytest.raises(PermissionError, match=r"for reading only: .*'r\+b'.*mode 'r'$"),
    ):
        ptshare.Mapping(file, "r+", page_tables=page_tables)
    fd = os.open(path, os.O_WRONLY)
    try:
        with pytest.raises(PermissionError, match=r"for writing only: open it with 'r\+b' \(O_RDWR\)$"):
            ptshare.Mapping(fd, "r+", page_tables=page_tables)
        with pytest.raises(PermissionError, match=r"for writing only: open it with 'rb'$"):
            ptshare.Mapping(fd, page_tables=page_tables)
    finally:
        os.close(fd)


def test_a_refusal_that_is_not_for_the_descriptor_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a security module's."""
    denied = PermissionError(errno.EACCES, "denied")

    def deny(*_: object) -> None:
        raise denied

    path = make(tmp_path, 10)
    monkeypatch.setattr(ptshare.Mapping, "_map", deny)
    with pytest.raises(PermissionError) as caught:
        ptshare.Mapping(path, page_tables="ordinary")
    assert caught.value is denied


@pytest.mark.parametrize(
    ("offset", "length", "error"),
    [
        (1, None, ValueError),
        (4096, None, ValueError),
        (GRANULE, None, ValueError),  # begins at the end of the file
        (0, GRANULE + 1, ValueError),
        (0, 0, ValueError),
        (1 << 60, 1, ValueError),
        (-GRANULE, None, OverflowError),
        (0, -1, OverflowError),
        (0, 1 << 63, OverflowError),
        (1 << 64, None, OverflowError),
    ],
)
def test_windows_that_are_not_in_the_file(
    tmp_path: Path,
    page_tables: ptshare.mapping.Asked,
    offset: int,
    length: int | None,
    error: type[Exception],
) -> None:
    with pytest.raises(error, match=r"must be|not within"):
        ptshare.Mapping(make(tmp_path, GRANULE), offset=offset, length=length, page_tables=page_tables)


@pytest.mark.parametrize("value", ["5", 5.0, b"5", [5]])
@pytest.mark.parametrize("name", ["offset", "length"])
def test_windows_that_are_no_numbers(
    tmp_path: Path, page_tables: ptshare.mapping.Asked, name: str, value: Any
) -> None:
    path = make(tmp_path, GRANULE)
    with pytest.raises(TypeError, match=f"{name} must be an int, in bytes, not {re.escape(repr(value))}"):
        ptshare.Mapping(path, page_tables=page_tables, **{name: value})
    with pytest.raises(TypeError, match="offset must be an int, in bytes, not None"):
        ptshare.Mapping(path, offset=None, page_tables=page_tables)  # type: ignore[arg-type]
    with ptshare.Mapping(path, offset=np.int64(0), length=np.int64(5), page_tables=page_tables) as mapping:  # type: ignore[arg-type]
        assert len(mapping) == 5


def test_anonymous_memory_needs_a_length_that_fits(page_tables: ptshare.mapping.Asked) -> None:
    with pytest.raises(ValueError, match="needs a length"):
        ptshare.Mapping(None, "r+", page_tables=page_tables)
    with pytest.raises(ValueError, match="no offset"):
        ptshare.Mapping(None, "r+", offset=GRANULE, length=1, page_tables=page_tables)
    with pytest.raises(ValueError, match=r"at least 1 byte$"):
        ptshare.Mapping(None, "r+", length=0, page_tables=page_tables)
    with pytest.raises(OverflowError, match=str(sys.maxsize)):
        ptshare.Mapping(None, "r+", length=sys.maxsize + 1, page_tables=page_tables)
    for length in (1 << 62, (1 << 62) + 1, (1 << 63) - 1):
        with pytest.raises(OSError, match=r".") as caught:
            ptshare.Mapping(None, "r+", length=length, page_tables=page_tables)
        assert caught.value.errno == errno.ENOMEM


def test_unknown_choices(tmp_path: Path) -> None:
    path = make(tmp_path, 10)
    with pytest.raises(ValueError, match="mode must be 'r' or 'r\\+', not 'w'"):
        ptshare.Mapping(path, "w")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="page_tables must be"):
        ptshare.Mapping(path, page_tables="huge")  # type: ignore[arg-type]


@pytest.mark.usefixtures("flag_taken")
def test_any_other_refusal_by_the_kernel_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, GRANULE)
    monkeypatch.setattr(abi, "MAP_SHARED_VALIDATE", mmap.MAP_SHARED | mmap.MAP_PRIVATE | 0x0C)  # no such type
    with pytest.raises(OSError, match=r".") as caught:
        ptshare.Mapping(path, page_tables="auto")
    assert caught.value.errno == errno.EINVAL


# The package.


def test_import_is_light() -> None:
    code = "import sys; before = set(sys.modules); import ptshare; print(*(set(sys.modules) - before))"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "ptshare.mapping" in loaded
    assert {name.partition(".")[0] for name in loaded} <= sys.stdlib_module_names | {"ptshare"}
    assert not {"ctypes", "multiprocessing", "subprocess", "json", "argparse"} & set(loaded)


def test_import_is_quick(tmp_path: Path) -> None:
    """Within 30 ms of what a program that shares memory has imported anyway: 9 to 12 were measured.

    Slow machines are allowed what they take for multiprocessing, twice.
    """
    code = (
        "import time\n"
        "start = time.perf_counter()\n"
        "import mmap, multiprocessing\n"
        "between = time.perf_counter()\n"
        "import ptshare\n"
        "print(between - start, time.perf_counter() - between)"
    )
    # Installed packages are compiled.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    others, own = [], []
    # The least of some: what is on this machine besides only ever adds to it.
    for _ in range(8):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        before, after = run.stdout.split()
        others.append(float(before))
        own.append(float(after))
    assert min(own) < max(0.030, 2 * min(others))
