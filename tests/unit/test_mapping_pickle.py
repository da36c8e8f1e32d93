# SPDX-License-Identifier: MIT
"""A pickled ``ptshare.Mapping`` attaches to the same file and window where it is unpickled."""

import copy
import errno
import multiprocessing
import os
import pickle
import subprocess
import sys
from multiprocessing.context import BaseContext
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest

import ptshare
from mapping_fixtures import GRANULE, make

pytestmark = pytest.mark.usefixtures("helpers", "nothing_leaked")


Facts = tuple[bytes, str, int, tuple[int, int], int]


def facts(mapping: ptshare.Mapping) -> Facts:
    """What a mapping shows, and which file it is of."""
    status = os.stat(f"/proc/self/map_files/{map_file(mapping)}")
    return mapping[:16], mapping.mode, mapping.offset, (status.st_dev, status.st_ino), len(mapping)


def map_file(mapping: ptshare.Mapping) -> str:
    """The mapping's range as the kernel writes it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if int(line.partition("-")[0], 16) == mapping.address:
            return line.split()[0]
    raise AssertionError("not mapped")


def tell(results: "SimpleQueue[object]", *mappings: ptshare.Mapping) -> None:
    """Of a process that was handed the mappings when it was started."""
    results.put([facts(mapping) for mapping in mappings])
    for mapping in mappings:
        if mapping.mode == "r+":
            mapping[0] = os.getpid() % 251
        mapping.close()


def tell_what_comes(inbox: "SimpleQueue[ptshare.Mapping]", results: "SimpleQueue[object]") -> None:
    """Of a process that is sent a mapping later."""
    with inbox.get() as mapping:
        results.put([facts(mapping)])


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def context(request: pytest.FixtureRequest) -> BaseContext:
    context: BaseContext = multiprocessing.get_context(request.param)
    return context


def test_to_a_process_that_is_started(tmp_path: Path, context: BaseContext) -> None:
    path = make(tmp_path, 2 * GRANULE + 5000)
    results: SimpleQueue[list[Facts]] = context.SimpleQueue()
    with (
        path.open("r+b") as file,
        ptshare.Mapping(path, page_tables="auto") as by_path,
        ptshare.Mapping(path, "r+", offset=GRANULE, length=99, page_tables="auto") as window,
        ptshare.Mapping(file, "r+", page_tables="ordinary") as by_file,
        ptshare.Mapping(None, "r+", length=5000, page_tables="auto") as anonymous,
    ):
        mappings = (by_path, window, by_file, anonymous)
        anonymous[:3] = b"abc"
        expected = [facts(mapping) for mapping in mappings]
        process = context.Process(target=tell, args=(results, *mappings))  # type: ignore[attr-defined]
        process.start()
        assert results.get() == expected
        process.join()
        assert process.exitcode == 0
        # What the process wrote is seen here: it is the same memory.
        assert window[0] == by_file[GRANULE] == anonymous[0] == process.pid % 251
        process.close()
    results.close()


def test_through_a_queue(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    inbox: SimpleQueue[ptshare.Mapping] = context.SimpleQueue()
    results: SimpleQueue[list[Facts]] = context.SimpleQueue()
    process = context.Process(target=tell_what_comes, args=(inbox, results))
    process.start()
    with ptshare.Mapping(None, "r+", length=5000, page_tables="auto") as mapping:
        mapping[:5] = b"hello"
        inbox.put(mapping)
        assert results.get() == [facts(mapping)]
    process.join()
    assert process.exitcode == 0
    process.close()
    inbox.close()
    results.close()


def test_a_path_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 5000)
    monkeypatch.chdir(tmp_path)
    with ptshare.Mapping("ptshare-test.data", page_tables="auto") as mapping:
        data = pickle.dumps(mapping)
        monkeypatch.chdir("/")
        with pickle.loads(data) as again:
            assert facts(again) == facts(mapping)
            assert again.page_tables == mapping.page_tables
            assert repr(again) == repr(mapping)
            with pickle.loads(pickle.dumps(again)) as third:
                assert facts(third) == facts(mapping)


def test_a_path_with_another_file_is_not_taken_for_it(tmp_path: Path) -> None:
    path = make(tmp_path, 5000)
    with ptshare.Mapping(path, page_tables="auto") as mapping:
        data = pickle.dumps(mapping)
    path.rename(tmp_path / "old")
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)
    make(tmp_path, 5000)
    with pytest.raises(OSError, match="another file than the one that was mapped") as caught:
        pickle.loads(data)
    assert caught.value.errno == errno.ESTALE


def test_a_file_that_has_become_too_short(tmp_path: Path) -> None:
    path = make(tmp_path, 5000)
    with ptshare.Mapping(path, page_tables="auto") as mapping:
        data = pickle.dumps(mapping)
    os.truncate(path, 100)
    with pytest.raises(ValueError, match="not within the file"):
        pickle.loads(data)


def test_a_descriptor_is_received_once() -> None:
    with ptshare.Mapping(None, "r+", length=5000, page_tables="auto") as mapping:
        data = pickle.dumps(mapping)
        with pickle.loads(data) as again:
            assert facts(again) == facts(mapping)
        with pytest.raises(OSError, match="received once") as caught:
            pickle.loads(data)
        assert caught.value.errno == errno.ESTALE


def test_a_process_of_another_family_receives_no_descriptor() -> None:
    """It has another key than the sender: multiprocessing draws one for each program that is started."""
    code = (
        "import pickle, sys\n"
        "try: pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "except OSError as error: print(error.errno, error.strerror)"
    )
    with ptshare.Mapping(None, "r+", length=5000, page_tables="auto") as mapping:
        data = pickle.dumps(mapping)
        with pytest.MonkeyPatch.context() as patch:
            # The sender's thread tells of each failure.
            patch.setattr(sys, "excepthook", lambda *_: None)
            run = subprocess.run([sys.executable, "-c", code, data.hex()], capture_output=True, text=True)
        assert run.stderr == ""
        assert run.stdout.startswith(f"{errno.ESTALE} the mapping's descriptor is not to be had")
        assert "the same one" in run.stdout
        with pickle.loads(data) as again:  # it is still there for those that may
            assert facts(again) == facts(mapping)


def test_a_closed_mapping_is_not_pickled(tmp_path: Path) -> None:
    mapping = ptshare.Mapping(make(tmp_path, 5000), page_tables="auto")
    mapping.close()
    with pytest.raises(ValueError, match="closed"):
        pickle.dumps(mapping)


def test_no_copy(tmp_path: Path) -> None:
    with ptshare.Mapping(make(tmp_path, 5000), page_tables="auto") as mapping:
        for way in (copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="map the file again"):
                way(mapping)
