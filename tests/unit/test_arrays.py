# SPDX-License-Identifier: MIT
"""``ptshare.memmap`` gives what ``numpy.memmap`` gives."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ptshare
from mapping_fixtures import GRANULE, make

pytestmark = pytest.mark.usefixtures("nothing_leaked", "flag_taken")

CASES: list[dict[str, Any]] = [
    {},
    {"dtype": np.float64},
    {"dtype": "<u2", "offset": 10},
    {"dtype": np.float32, "shape": (10, 25)},
    {"dtype": np.float32, "shape": (10, 25), "order": "F"},
    {"dtype": np.int64, "shape": 7, "offset": 4096 + 8},
    {"dtype": [("a", "u1"), ("b", "<f4")], "shape": (3,), "offset": 5},
    {"shape": (2, 0, 3)},
    {"shape": ()},
]
MODES = ["r", "r+", "readonly", "readwrite", "c"]


def same(ours: "np.memmap[Any, Any]", theirs: "np.memmap[Any, Any]") -> None:
    assert type(ours) is type(theirs) is np.memmap
    for name in ("dtype", "shape", "strides", "offset", "mode", "filename"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for flag in ("C_CONTIGUOUS", "F_CONTIGUOUS", "WRITEABLE", "ALIGNED", "OWNDATA"):
        assert ours.flags[flag] == theirs.flags[flag], flag
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_the_same_array(tmp_path: Path, case: dict[str, Any], mode: Any) -> None:
    path = make(tmp_path, 8000)
    same(ptshare.memmap(path, mode=mode, **case), np.memmap(path, mode=mode, **case))


@pytest.mark.parametrize("offset", [0, 8, 4096, GRANULE - 8, GRANULE, GRANULE + 4104])
def test_an_array_anywhere_in_the_file(tmp_path: Path, offset: int) -> None:
    path = make(tmp_path, 2 * GRANULE + 4112)
    ours = ptshare.memmap(path, np.uint64, "r+", offset)
    same(ours, np.memmap(path, np.uint64, "r+", offset))
    assert isinstance(ours.base, ptshare.Mapping)
    assert ours.base.page_tables.granted == "shared"
    assert ours.base.offset % GRANULE == 0
    ours[-1] = 12345
    ours.flush()
    assert np.fromfile(path, np.uint64, offset=offset)[-1] == 12345


@pytest.mark.parametrize("mode", ["w+", "write"])
def test_a_new_file(tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "ptshare-test.new"
    array = ptshare.memmap(path, np.int32, mode, shape=(100, 100))
    assert path.stat().st_size == 40_000
    array[:] = np.arange(10_000).reshape(100, 100)
    array.flush()
    assert (np.fromfile(path, np.int32) == np.arange(10_000)).all()


def test_a_file_that_is_made_longer(tmp_path: Path) -> None:
    path = make(tmp_path, 100)
    array = ptshare.memmap(path, np.uint8, "r+", shape=5000)
    assert path.stat().st_size == 5000
    assert array[:100].tobytes() == path.read_bytes()[:100]


def test_from_an_open_file(tmp_path: Path) -> None:
    path = make(tmp_path, 8000)
    with path.open("rb") as file:
        ours, theirs = ptshare.memmap(file, np.int16, "r"), np.memmap(file, np.int16, "r")
    same(ours, theirs)


@pytest.mark.parametrize("mode", ["r", "r+", "w+", "c"])
def test_a_path_of_bytes(tmp_path: Path, mode: Any) -> None:
    path = os.fsencode(make(tmp_path, 8000))
    same(ptshare.memmap(path, np.int16, mode, shape=100), np.memmap(path, np.int16, mode, shape=100))


def test_a_shape_that_can_be_read_once(tmp_path: Path) -> None:
    array = ptshare.memmap(tmp_path / "ptshare-test.new", np.uint8, "w+", shape=iter((2, 3)))  # type: ignore[arg-type]
    assert array.shape == (2, 3)


@pytest.mark.parametrize("mode", ["r", "r+", "w+"])
@pytest.mark.parametrize("offset", [0, GRANULE - 8, GRANULE, 2 * GRANULE])
def test_no_elements_at_the_end_of_the_file(tmp_path: Path, mode: Any, offset: int) -> None:
    path = make(tmp_path, offset or 1)
    same(
        ptshare.memmap(path, np.uint8, mode, offset, shape=(3, 0)),
        np.memmap(path, np.uint8, mode, offset, shape=(3, 0)),
    )


def test_views_keep_the_mapping(tmp_path: Path) -> None:
    path = make(tmp_path, 8000)
    view = ptshare.memmap(path, np.int16, "r")[100:200]
    assert type(view) is np.memmap
    assert view.tobytes() == path.read_bytes()[200:400]
    assert type(view.sum()) is np.memmap.sum(np.memmap(path, np.int16, "r")).__class__
    assert (pickle.loads(pickle.dumps(view)) == view).all()


def test_copy_on_write_is_private(tmp_path: Path) -> None:
    path = make(tmp_path, 8000)
    array = ptshare.memmap(path, mode="c")
    before = path.read_bytes()
    array[0] ^= 255
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="private"):
        ptshare.memmap(path, mode="c", page_tables="shared")


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "x"},
        {"mode": "w+"},
        {"dtype": "<u8", "offset": 1},
        {"mode": "r", "shape": 10_000},
        {"mode": "r", "offset": 9000},
        {"dtype": "nonsense"},
        {"order": "X"},
        {"page_tables": "huge"},
    ],
)
def test_the_same_errors(tmp_path: Path, arguments: dict[str, Any]) -> None:
    path = make(tmp_path, 8000)
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError, ArithmeticError)) as ours:
        ptshare.memmap(path, **arguments)
    if "page_tables" not in arguments:
        with pytest.raises(type(ours.value)) as theirs:
            np.memmap(path, **arguments)
        assert str(ours.value) == str(theirs.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["w+", "write", "r+", "readwrite"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"dtype": "nonsense"},
        {"order": "X"},
        {"offset": 1.5},
        {"offset": "8"},
        {"offset": -20_000},
        {"shape": (100, "100")},
        {"shape": object()},
    ],
)
def test_an_argument_that_is_refused_changes_no_file(
    tmp_path: Path, mode: Any, arguments: dict[str, Any]
) -> None:
    """Nor makes one; numpy itself is not so careful."""
    path, none = make(tmp_path, 8000), tmp_path / "none"
    before = path.read_bytes()
    arguments = {"shape": 10_000, **arguments}
    with pytest.raises((ValueError, TypeError, OverflowError)) as ours:
        ptshare.memmap(path, mode=mode, **arguments)
    assert path.read_bytes() == before
    with pytest.raises((ValueError, TypeError, OverflowError, OSError)):
        ptshare.memmap(none, mode=mode, **arguments)
    assert not none.exists()
    with pytest.raises(type(ours.value)) as theirs:
        np.memmap(path, mode=mode, **arguments)
    assert str(ours.value) == str(theirs.value)


def test_no_such_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ptshare.memmap(tmp_path / "none", mode="r")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty"):
        ptshare.memmap(tmp_path / "empty", mode="r")


def test_shared_is_refused_where_the_kernel_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    path = make(tmp_path, 8000)
    before = path.read_bytes()
    for mode in ("r", "r+", "w+"):
        with pytest.raises(ptshare.UnsupportedError):
            ptshare.memmap(path, mode=mode, shape=8000, page_tables="shared")
    with pytest.raises(ptshare.UnsupportedError):
        ptshare.memmap(path, mode="r+", shape=9000, page_tables="shared")
    with pytest.raises(ValueError, match="page_tables must be"):
        ptshare.memmap(path, mode="w+", shape=10, page_tables="huge")  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert ptshare.memmap(path, mode="r").base.page_tables.granted == "ordinary"  # type: ignore[union-attr]


def test_without_numpy() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import ptshare\n"
        "try: ptshare.memmap('x')\n"
        "except ImportError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" in result.stdout
