# SPDX-License-Identifier: MIT
"""The lab's machine has what the guest tests stand on."""

import os
import subprocess
from pathlib import Path


def test_the_kernel_is_the_projects() -> None:
    assert os.uname().release.endswith(("-ptshare", "-ptshare-debug", "-ptshare-kasan"))


def test_four_processors() -> None:
    assert len(os.sched_getaffinity(0)) >= 4


def test_the_clock_is_finer_than_a_jiffy() -> None:
    source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text().strip()
    assert source in {"tsc", "tsc-early", "kvm-clock"}


def test_ext4_on_a_loop_device(tmp_path: Path) -> None:
    image, directory = tmp_path / "ext4.img", tmp_path / "mnt"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
    try:
        (directory / "file").write_bytes(b"x" * 10_000)
        assert (directory / "file").stat().st_size == 10_000
    finally:
        subprocess.run(["umount", str(directory)], check=True)
    assert not (directory / "file").exists()


def test_memfd() -> None:
    fd = os.memfd_create("ptshare")
    try:
        os.ftruncate(fd, 1 << 20)
        assert os.pwrite(fd, b"x", 4096) == 1
    finally:
        os.close(fd)


def test_memory_cgroups() -> None:
    group = Path("/sys/fs/cgroup/ptshare-test")
    group.mkdir()
    try:
        (group / "memory.max").write_text("67108864")
        assert (group / "memory.max").read_text() == "67108864\n"
    finally:
        group.rmdir()


def test_the_host_keeps_its_files() -> None:
    assert Path("/proc/mounts").read_text().splitlines()[0].startswith("overlay / overlay")
