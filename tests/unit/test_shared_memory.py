# SPDX-License-Identifier: MIT
"""``ptshare.SharedMemory`` in the place of the standard library's. That tables are shared is shown in
tests/guest/test_shared_memory.py.
"""

import errno
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import shared_memory as standard
from pathlib import Path
from typing import Any

import pytest

import ptshare
from mapping_fixtures import GRANULE

pytestmark = pytest.mark.usefixtures("helpers", "nothing_leaked")

SHM = Path("/dev/shm")


@pytest.fixture(autouse=True)
def no_block_left() -> Iterator[None]:
    before = blocks()
    yield
    assert blocks() == before


def blocks() -> set[str]:
    """Of all processes; semaphores stand there, too, for a moment, and other programs make some."""
    return {name for name in os.listdir(SHM) if not name.startswith("sem.")}


@pytest.fixture(params=["auto", "ordinary"])
def block(request: pytest.FixtureRequest) -> Iterator[ptshare.SharedMemory]:
    """5000 bytes."""
    made = ptshare.SharedMemory(create=True, size=5000, page_tables=request.param)
    yield made
    made.close()
    made.unlink()


def test_a_block(block: ptshare.SharedMemory) -> None:
    assert block.size == 5000
    assert block.buf is not None
    assert (block.buf.nbytes, block.buf.readonly, block.buf.format) == (5000, False, "B")
    assert bytes(block.buf) == bytes(5000)
    assert block.name is not None
    assert (SHM / block.name).stat().st_size == 5000
    assert (SHM / block.name).stat().st_mode & 0o777 == 0o600
    assert repr(block) == f"SharedMemory({block.name!r}, size=5000)"
    assert block.page_tables.granted == "ordinary"


def test_attach_by_name(block: ptshare.SharedMemory) -> None:
    again = ptshare.SharedMemory(block.name)
    assert again.size == 5000
    assert block.buf is not None
    assert again.buf is not None
    block.buf[4999] = 7
    assert again.buf[4999] == 7
    again.close()


@pytest.mark.parametrize("creator", [ptshare.SharedMemory, standard.SharedMemory])
def test_either_attaches_to_the_other(creator: type[ptshare.SharedMemory]) -> None:
    attacher = standard.SharedMemory if creator is ptshare.SharedMemory else ptshare.SharedMemory
    made = creator("ptshare-test", create=True, size=GRANULE + 5)
    other = attacher("ptshare-test")
    assert made.size == other.size == GRANULE + 5
    assert made.buf is not None
    assert other.buf is not None
    made.buf[GRANULE] = 9
    assert other.buf[GRANULE] == 9
    other.close()
    made.close()
    made.unlink()


def test_after_close(block: ptshare.SharedMemory) -> None:
    assert block.buf is not None
    view = memoryview(block.buf)[1:]
    with pytest.raises(BufferError):
        block.close()
    view.release()
    block.close()
    block.close()
    assert block.buf is None
    assert block.size == 5000
    for use in (block.report, lambda: block.page_tables):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_unlinked_memory_lives_while_it_is_mapped() -> None:
    block = ptshare.SharedMemory(create=True, size=100)
    other = ptshare.SharedMemory(block.name)
    block.unlink()
    with pytest.raises(FileNotFoundError):
        ptshare.SharedMemory(block.name)
    with pytest.raises(FileNotFoundError):
        other.unlink()
    assert block.buf is not None
    assert other.buf is not None
    block.buf[5] = 5
    block.close()
    assert other.buf[5] == 5
    other.close()


def test_pickled_it_attaches(block: ptshare.SharedMemory) -> None:
    again = pickle.loads(pickle.dumps(block))
    assert (again.name, again.size) == (block.name, 5000)
    assert again.page_tables == block.page_tables
    again.close()


def write_to(block: ptshare.SharedMemory) -> None:
    assert block.buf is not None
    block.buf[0] = 42
    block.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_to_another_process(block: ptshare.SharedMemory, method: str) -> None:
    process = multiprocessing.get_context(method).Process(target=write_to, args=(block,))  # type: ignore[attr-defined]
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()
    assert block.buf is not None
    assert block.buf[0] == 42


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"create": True, "size": 0}, ValueError),
        ({"create": True, "size": -1}, ValueError),
        ({"name": "ptshare-none", "size": -1}, ValueError),
        ({"create": False}, ValueError),
        ({"name": "ptshare-none"}, FileNotFoundError),
        ({"name": "a/b", "create": True, "size": 1}, OSError),
        ({"name": "", "create": True, "size": 1}, OSError),
        ({"name": "", "create": False}, OSError),
        ({"name": "x" * 256, "create": True, "size": 1}, OSError),
        ({"name": "x" * 600, "create": True, "size": 1}, OSError),
        ({"name": "\u00e9" * 128, "create": True, "size": 1, "track": False}, OSError),
        ({"name": "a\0b"}, ValueError),
        ({"name": "a\0b", "create": True, "size": 1}, ValueError),
        ({"create": True, "size": 1 << 62}, OSError),
        ({"create": True, "size": 1 << 63}, OverflowError),
        ({"create": True, "size": 8, "page_tables": "huge"}, ValueError),
    ],
)
def test_what_cannot_be(arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"."):
        ptshare.SharedMemory(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("name", [5, b"ptshare-test", Path("ptshare-test")])
def test_a_name_that_is_no_string(name: Any, create: bool) -> None:
    with pytest.raises(TypeError, match=f"'name' must be a str or None, not {re.escape(repr(name))}"):
        ptshare.SharedMemory(name, create=create, size=10)


@pytest.mark.parametrize("size", ["5", 5.5, None])
def test_a_size_that_is_no_integer(size: Any) -> None:
    with pytest.raises(TypeError, match=f"'size' must be an int, in bytes, not {size!r}"):
        ptshare.SharedMemory(create=True, size=size)


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("name", ["ptshare\ntest", "ptshare:test", "ptshare-t\u00e9st", "ptshare-\udc80"])
def test_a_name_that_the_tracker_would_not_understand(name: str, create: bool) -> None:
    if not create:
        (SHM / name).write_bytes(b"x")
    try:
        with pytest.raises(ValueError, match=r"resource tracker, not .*; choose another .* track=False"):
            ptshare.SharedMemory(name, create=create, size=10)
    finally:
        (SHM / name).unlink(missing_ok=True)
    block = ptshare.SharedMemory(name, create=True, size=10, track=False)
    again = ptshare.SharedMemory(name, track=False)
    assert again.name == name
    again.close()
    block.close()
    block.unlink()


def test_a_name_that_is_taken(block: ptshare.SharedMemory) -> None:
    with pytest.raises(FileExistsError) as caught:
        ptshare.SharedMemory(block.name, create=True, size=100)
    assert caught.value.errno == errno.EEXIST
    assert ptshare.SharedMemory(block.name).size == 5000


def test_shared_is_refused_where_the_kernel_cannot() -> None:
    with pytest.raises(ptshare.UnsupportedError):
        ptshare.SharedMemory(create=True, size=100, page_tables="shared")


def test_an_empty_block() -> None:
    (SHM / "ptshare-test").touch()
    try:
        with pytest.raises(ValueError, match="empty"):
            ptshare.SharedMemory("ptshare-test")
    finally:
        (SHM / "ptshare-test").unlink()


# What is left of a process that ends as it likes.


def python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys, ptshare\n{code}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_is_killed_leaves_no_block() -> None:
    """Its resource tracker, a process of its own, takes the names away."""
    before = blocks()
    code = "while True: ptshare.SharedMemory(create=True, size=1 << 20); print('x', flush=True)"
    process = python(code)
    assert process.stdout is not None
    for _ in range(20):
        assert process.stdout.readline() == "x\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while blocks() != before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_untracked_blocks_stay() -> None:
    with python("print(ptshare.SharedMemory(create=True, size=10, track=False).name)") as process:
        out, err = process.communicate()
    assert err == ""
    name = out.strip()
    attach = f"block = ptshare.SharedMemory({name!r}, track=False); block.close()"
    with python(attach) as process:
        assert process.communicate() == ("", "")
    block = ptshare.SharedMemory(name, track=False)
    block.close()
    block.unlink()


def test_a_tracked_block_is_unlinked_and_said_to_be(block: ptshare.SharedMemory) -> None:
    with python("print(ptshare.SharedMemory(create=True, size=10).name)") as process:
        out, err = process.communicate()
    assert "1 leaked shared_memory object" in err
    deadline = time.monotonic() + 60
    while (SHM / out.strip()).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
