# SPDX-License-Identifier: MIT
"""What ``ptshare.probe`` says here, and on kernels that answer otherwise."""

import errno
import mmap
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import ptshare
from descriptors import descriptors
from ptshare import abi
from ptshare.support import granule


@pytest.fixture(autouse=True)
def not_read_yet() -> Iterator[None]:
    """The granule is read anew by each test, and by whoever comes after it."""
    granule.cache_clear()
    yield
    granule.cache_clear()


def test_a_kernel_without_the_feature() -> None:
    support = ptshare.probe()
    assert support == ptshare.Support(
        supported=False, granule=granule(), reason="this kernel does not have MAP_SHARED_PT"
    )


def test_a_kernel_without_the_feature_ignores_the_flag() -> None:
    """With plain MAP_SHARED; with MAP_SHARED_VALIDATE it says so."""
    fd = os.memfd_create("plain")
    try:
        os.ftruncate(fd, 0x1000)
        with mmap.mmap(fd, 0x1000, flags=mmap.MAP_SHARED | abi.MAP_SHARED_PT) as mapped:
            mapped[0] = 1
        assert os.pread(fd, 1, 0) == b"\x01"
        with pytest.raises(OSError, match=rf"\[Errno {errno.EOPNOTSUPP}\]"):
            mmap.mmap(fd, 0x1000, flags=abi.MAP_SHARED_VALIDATE | abi.MAP_SHARED_PT)
    finally:
        os.close(fd)


def test_a_kernel_that_takes_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abi, "MAP_SHARED_PT", 0)
    assert ptshare.probe() == ptshare.Support(supported=True, granule=granule(), reason=None)


def test_a_kernel_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "granule").write_text("4194304\n")
    monkeypatch.setattr(abi, "SYSFS", str(tmp_path))
    support = ptshare.probe()
    assert not support.supported
    assert support.granule == 4 << 20
    assert support.reason == f"switched off, {tmp_path}/enabled is 0"


def test_any_other_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> mmap.mmap:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert ptshare.probe().reason == "the kernel refused a trial mapping: Cannot allocate memory"


def test_probe_leaves_nothing_behind() -> None:
    before = descriptors()
    ptshare.probe()
    assert descriptors() == before
    assert "ptshare-probe" not in Path("/proc/self/maps").read_text()


def test_the_granule_without_a_word_from_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(abi, "SYSFS", str(tmp_path))
    monkeypatch.setattr(abi, "PMD_SIZE_FILE", str(tmp_path / "hpage_pmd_size"))
    assert granule() == 2 << 20
    (tmp_path / "hpage_pmd_size").write_text("1048576\n")
    granule.cache_clear()
    assert granule() == 1 << 20


def test_unsupported_error_is_an_os_error() -> None:
    error = ptshare.UnsupportedError("of this")
    assert error.errno == errno.EOPNOTSUPP
    assert error.strerror == (
        "page tables cannot be shared: of this; page_tables='auto' maps with what the kernel has"
    )


def test_unsupported_error_comes_back_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(ptshare.UnsupportedError("of this")))
    assert type(error) is ptshare.UnsupportedError
    assert (error.reason, str(error)) == ("of this", str(ptshare.UnsupportedError("of this")))
