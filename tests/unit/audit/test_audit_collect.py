# SPDX-License-Identifier: MIT
"""Audits of real processes on this machine: counts are exact. Any kernel will do."""

import ctypes
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from mapped import ADDRESS, children, mapped, memory
from ptshare import counters, pagemap, syscalls
from ptshare.audit import estimate, host, ioctls, proc
from ptshare.audit.collect import Scope, collect
from ptshare.audit.model import Audit, MappedObject, Unread
from ptshare.syscalls import GRANULE, MAP_PRIVATE, PAGE

MIB = 1 << 20


def audit(pids: list[int]) -> Audit:
    return collect(Scope(pids=pids), count=False)


def of_file(found: Audit, fd: int, shared: bool = True) -> MappedObject:
    """What was found of a file."""
    status = os.fstat(fd)
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    (item,) = (
        item
        for item in found.objects
        if (item.device, item.inode, item.shared) == (device, status.st_ino, shared)
    )
    return item


@pytest.fixture(params=["ioctls", "older"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """This kernel, and as if it were one without the ioctls."""
    how = str(request.param)
    if how == "older":
        monkeypatch.setattr(ioctls, "_PROCMAP_QUERY", 0x6611)
        monkeypatch.setattr(pagemap, "_PAGEMAP_SCAN", 0x6610)
    return how


@pytest.mark.usefixtures("kernel")
def test_tables_of_a_memfd() -> None:
    with memory(16 * MIB) as fd, children(*[partial(mapped, fd, 16 * MIB, range(8))] * 5) as pids:
        found = audit(pids)
        item = of_file(found, fd)
    assert (item.kind, item.name) == ("memfd", "/memfd:audited (deleted)")
    assert (item.size, item.mappers, item.tables, item.needed) == (16 * MIB, 5, 5 * 8, 8)
    assert item.duplicate == item.saved_by_sharing(GRANULE) == 4 * 8
    assert item.saved_by_huge_pages == 5 * 8
    assert item.obstacle(GRANULE) is None
    assert list(item.commands.values()) == [(5, 40)]
    assert [process.pid for process in found.processes] == pids
    for process in found.processes:
        status = proc.parse_status(Path(f"/proc/{os.getpid()}/status").read_bytes())
        assert status is not None
        assert process.tables >= 8
        assert process.vm_pte >= process.tables * PAGE
        assert process.unattributed(PAGE) == process.vm_pte - process.tables * PAGE


@pytest.mark.usefixtures("kernel")
def test_processes_that_touch_different_parts() -> None:
    with memory(16 * MIB) as fd:
        acts = [
            partial(mapped, fd, 16 * MIB, part) for part in (range(4), range(2, 6), range(7, 8), range(0))
        ]
        # A window of the file: granules 4 to 7.
        acts.append(partial(mapped, fd, 8 * MIB, range(4), offset=8 * MIB))
        with children(*acts) as pids:
            item = of_file(audit(pids), fd)
    assert (item.mappers, item.tables) == (5, 4 + 4 + 1 + 0 + 4)
    # 0 to 7: all.
    assert item.needed == 8
    assert item.size == 16 * MIB


@pytest.mark.usefixtures("kernel")
def test_readers_and_writers_need_tables_of_their_own() -> None:
    with memory(8 * MIB) as fd:
        acts = [partial(mapped, fd, 8 * MIB, range(4), write=write) for write in (True, True, False, False)]
        with children(*acts) as pids:
            item = of_file(audit(pids), fd)
    assert (item.tables, item.needed, item.duplicate) == (16, 8, 8)


@pytest.mark.usefixtures("kernel")
def test_a_mapping_that_lies_across_tables() -> None:
    """Half a granule off: five tables map what four would."""
    half = GRANULE // 2
    with memory(8 * MIB) as fd:

        def act() -> None:
            at = syscalls.mmap(
                8 * MIB, syscalls.R, syscalls.MAP_SHARED | syscalls.MAP_FIXED, fd, 0, ADDRESS + half
            )
            syscalls.madvise(at, 8 * MIB, syscalls.MADV_POPULATE_READ)

        with children(act) as pids:
            item = of_file(audit(pids), fd)
    assert item.tables == 5
    assert item.obstacle(GRANULE) is None


@pytest.mark.usefixtures("kernel")
def test_one_page_here_and_there() -> None:
    """A table is one, whatever is in it; and one that is empty is none."""
    with memory(32 * MIB) as fd:

        def act() -> None:
            mapped(fd, 32 * MIB, range(0))
            for page in (1, 511, 512, 512 * 9 + 100, 512 * 9 + 300, 512 * 16 - 1):
                syscalls.madvise(ADDRESS + page * PAGE, PAGE, syscalls.MADV_POPULATE_WRITE)

        with children(act) as pids:
            item = of_file(audit(pids), fd)
    assert (item.tables, item.needed) == (4, 4)


@pytest.mark.usefixtures("kernel")
def test_what_cannot_be_shared_and_why(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(PAGE))
    with (
        memory(8 * MIB) as unaligned,
        memory(1 << 30) as private,
        small.open("rb") as one_page,
        children(
            partial(mapped, private, 1 << 30, range(512), flags=MAP_PRIVATE, write=False),
            partial(mapped, one_page.fileno(), PAGE, range(1), write=False),
            partial(mapped, unaligned, 4 * MIB, range(2), offset=PAGE),
        ) as pids,
    ):
        found = audit(pids)
        items = [
            of_file(found, private, shared=False),
            of_file(found, one_page.fileno()),
            of_file(found, unaligned),
        ]
    assert [item.obstacle(GRANULE) for item in items] == ["private mapping", "size", "alignment"]
    assert [item.tables for item in items] == [512, 1, 2]
    assert [item.saved_by_sharing(GRANULE) for item in items] == [0, 0, 0]
    assert [item.kind for item in items] in (["memfd", "file", "memfd"], ["memfd", "tmpfs", "memfd"])
    assert items[1].name == str(small)
    assert items[1].filesystem


@pytest.mark.usefixtures("kernel")
def test_private_memory_is_one_object() -> None:
    def act() -> None:
        at = syscalls.mmap(
            1 << 30, syscalls.RW, MAP_PRIVATE | syscalls.MAP_ANONYMOUS | syscalls.MAP_FIXED, addr=ADDRESS
        )
        syscalls.madvise(at, 1 << 30, 15)  # MADV_NOHUGEPAGE
        for granule in range(512):
            ctypes.memset(at + granule * GRANULE, 1, 1)

    # What else a child has is what this process has, and that follows from the tests that ran before.
    own = counters.process_tables().own_kib * 1024 // PAGE
    with children(act, act) as pids:
        found = audit(pids)
    (item,) = (item for item in found.objects if item.kind == "private")
    assert 1024 <= item.tables <= 1024 + 2 * own
    assert item.obstacle(GRANULE) == "private"
    assert item.duplicate == item.saved_by_huge_pages == 0
    assert item.mappers == 2


@pytest.mark.usefixtures("kernel")
def test_anonymous_and_system_v_memory_have_names() -> None:
    libc = syscalls.libc
    libc.shmat.restype = ctypes.c_void_p
    segment = libc.shmget(0, syscalls.size_t(8 * MIB), 0o1600)
    anonymous = syscalls.mmap(8 * MIB, syscalls.RW, syscalls.MAP_SHARED | syscalls.MAP_ANONYMOUS)
    try:

        def act() -> None:
            at = libc.shmat(segment, ctypes.c_void_p(ADDRESS), 0)
            for address in (at, anonymous):
                syscalls.madvise(address, 8 * MIB, syscalls.MADV_POPULATE_WRITE)

        with children(act, act) as pids:
            found = audit(pids)
    finally:
        libc.shmctl(segment, 0, None)
        syscalls.munmap(anonymous, 8 * MIB)
    (segments,) = (item for item in found.objects if item.kind == "sysv")
    assert (segments.name, segments.tables, segments.needed) == ("/SYSV00000000 (deleted)", 8, 4)
    items = [item for item in found.objects if item.kind == "anonymous"]
    assert [(item.name, item.mappers) for item in items] == [("/dev/zero (deleted)", 2)]


ODD = "two words\n\x1b[31m and\ttabs (deleted)"


@pytest.mark.usefixtures("kernel")
def test_odd_names(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/" + ODD.encode() + b"\xff"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 8 * MIB)
    with children(partial(mapped, fd, 8 * MIB, range(4))) as pids:
        item = of_file(audit(pids), fd)
    os.close(fd)
    assert item.name == f"{tmp_path}/{ODD}\\xff"
    assert item.kind in ("file", "tmpfs")


def test_a_file_of_another_mount_namespace(tmp_path: Path) -> None:
    """Its file system is not mounted here; the process's own mounts tell what it is."""
    script = f"""
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0, os.strerror(ctypes.get_errno())
assert libc.mount(b"none", b"/", None, ctypes.c_ulong(0x44000), None) == 0
assert libc.mount(b"none", {os.fsencode(tmp_path)!r}, b"tmpfs", ctypes.c_ulong(0), None) == 0
fd = os.open("{tmp_path}/inside", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8 << 20)
import mmap
memory = mmap.mmap(fd, 8 << 20)
memory[::4096] = bytes(2048)
print("ready", os.fstat(fd).st_ino, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            _, inode = process.stdout.readline().split()
            found = audit([process.pid])
        finally:
            process.kill()
    (item,) = (item for item in found.objects if item.inode == int(inode) and item.name.endswith("/inside"))
    assert (item.kind, item.filesystem) == ("tmpfs", "tmpfs")


@pytest.mark.usefixtures("kernel")
def test_a_process_with_very_many_mappings() -> None:
    """As many as the kernel allows by default, 65,530."""
    with memory(2 * PAGE) as fd:

        def act() -> None:
            at = syscalls.mmap(GRANULE << 8, syscalls.NONE, MAP_PRIVATE | syscalls.MAP_ANONYMOUS)
            for page in range(0, 60000, 2):
                syscalls.mmap(
                    PAGE, syscalls.R, syscalls.MAP_SHARED | syscalls.MAP_FIXED, fd, 0, at + page * PAGE
                )
            ctypes.string_at(at, 1)

        with children(act) as pids:
            item = of_file(audit(pids), fd)
    assert (item.mappers, item.tables, item.obstacle(GRANULE)) == (1, 1, "size")


def test_which_processes() -> None:
    with memory(8 * MIB) as fd, children(*[partial(mapped, fd, 8 * MIB, range(4))] * 2) as pids:
        own = f"{Path('/proc/self/comm').read_text()[:4]}*"
        everybody = {process.pid for process in collect(count=False).processes}
        assert {*pids, os.getpid()} <= everybody
        for scope, expected in (
            (Scope(pids=pids[:1]), pids[:1]),
            (Scope(pids=pids, uids=[os.geteuid()]), pids),
            (Scope(pids=pids, uids=[54321]), []),
            (Scope(pids=pids, cgroups=["/"]), pids),
            (Scope(pids=pids, cgroups=["/no/such/group"]), []),
            (Scope(pids=pids, commands=[own]), pids),
            (Scope(pids=pids, commands=["no-such-command", own]), pids),
            (Scope(pids=pids, commands=["no-such-command"]), []),
        ):
            found = collect(scope, count=False)
            assert [process.pid for process in found.processes] == expected
            assert found.scope == str(scope)
        assert of_file(collect(count=False), fd).mappers == 2


def test_a_process_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    found = audit([ended.pid])
    assert (found.processes, found.vanished) == ([], Unread("ended meanwhile", 1, [str(ended.pid)]))
    # Between its status and its mappings.
    with memory(8 * MIB) as fd, children(partial(mapped, fd, 8 * MIB, range(4))) as pids:
        path = f"/proc/{pids[0]}/maps"
        real = os.open
        monkeypatch.setattr(
            os, "open", lambda name, *rest: real("/proc/no such" if name == path else name, *rest)
        )
        found = audit(pids)
    command = Path("/proc/self/comm").read_text().strip()
    assert (found.processes, found.vanished.examples) == ([], [f"{pids[0]} ({command})"])


def test_who_has_the_memory_of_another() -> None:
    """vfork(2): the child has its parent's tables, which count once."""
    script = """
import ctypes, os
libc = ctypes.CDLL(None)
print(os.getpid(), flush=True)
if libc.vfork() == 0:
    libc.pause()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while not (forked := listed.read_text().split()):
                pass
            assert syscalls.same_memory(process.pid, int(forked[0]))
            found = audit([process.pid, int(forked[0])])
        finally:
            os.kill(int(forked[0]), 9)
            process.kill()
    assert [one.pid for one in found.processes] == [process.pid]
    with children(lambda: None) as pids:
        assert not syscalls.same_memory(os.getpid(), pids[0])


def test_page_tables_of_the_whole_host() -> None:
    found = collect(count=True)
    machine = found.host
    assert machine.page_tables > 0
    assert found.vm_pte <= machine.page_tables * 1.2
    assert 0 < found.explained <= machine.page_tables
    assert machine.memory > machine.page_tables
    assert machine.kernel == os.uname().release
    if os.geteuid() == 0:
        assert machine.counted is not None
        assert abs(machine.counted - machine.page_tables) < 0.2 * machine.page_tables + 4 * MIB


def recorded(root: Path, pid: int, status: str, maps: str) -> Path:
    """A process as Debian's 6.1 tells of it: regular files, which know no ioctls."""
    directory = root / "proc" / str(pid)
    directory.mkdir(parents=True)
    (directory / "status").write_text(status)
    (directory / "maps").write_text(maps)
    (directory / "pagemap").write_bytes(b"")
    return directory


STATUS = """Name:\t{name}
Tgid:\t{pid}
PPid:\t1
Uid:\t105\t105\t105\t105
VmSize:\t 1049000 kB
VmHWM:\t 9000 kB
VmPTE:\t {vm_pte} kB
"""


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A host with Debian's 6.1: two backends of a database, a kernel thread, and one that cannot be
    parsed."""
    maps = "7f0000000000-7f0040000000 rw-s 00000000 00:01 2059                       /dev/zero (deleted)\n"
    for pid in (100, 101):
        directory = recorded(tmp_path, pid, STATUS.format(name="postgres", pid=pid, vm_pte=400), maps)
        with (directory / "pagemap").open("r+b") as pagemap:
            for granule in range(64):
                pagemap.seek((0x7F0000000000 + granule * GRANULE) // PAGE * 8)
                # Present; swapped out.
                pagemap.write((1 << (63 - granule % 2)).to_bytes(8, "little"))
            pagemap.truncate(0x7F0040000000 // PAGE * 8)
    recorded(tmp_path, 2, "Name:\tkthreadd\nTgid:\t2\nPPid:\t0\nUid:\t0\t0\t0\t0\n", "")
    recorded(tmp_path, 3, STATUS.format(name="odd", pid=3, vm_pte=8), "7f00-7f01 rw-s not a mapping\n")
    own = tmp_path / "proc/self"
    own.mkdir()
    (own / "mountinfo").write_text(
        "22 28 0:20 / /proc rw - proc proc rw\n28 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
    )
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal: 1048576 kB\nPageTables: 1000 kB\nShmemPmdMapped: 2048 kB\n"
    )
    kernel = tmp_path / "proc/sys/kernel"
    kernel.mkdir(parents=True)
    (kernel / "hostname").write_text("db1\n")
    (kernel / "osrelease").write_text("6.1.0-54-amd64\n")
    return tmp_path


def test_a_recorded_older_kernel(older: Path) -> None:
    found = collect(root=str(older))
    assert (found.host.name, found.host.kernel) == ("db1", "6.1.0-54-amd64")
    assert found.host.method == "maps, pagemap"
    assert found.host.huge_unknown
    assert found.host.counted is None
    assert found.host.shared_tables is None
    (item,) = found.objects
    assert (item.kind, item.tables, item.needed, item.mappers) == ("anonymous", 128, 64, 2)
    assert item.commands == {"postgres": (2, 128)}
    assert [(unread.reason, unread.examples) for unread in found.unread] == [
        ("not a line of maps: b'7f00-7f01 rw-s not a mapping'", ["3 (odd)"])
    ]
    assert [process.read for process in found.processes] == [False, True, True]
    # 808 KiB of processes, and no room for a top level in what is left? There is: 192 KiB for three.
    assert found.vm_pte == 808 << 10
    assert found.host.top_level == 3 * PAGE


def test_address_space_that_was_set_aside_is_not_read(older: Path) -> None:
    """Of 16 TiB, pagemap has 32 GiB."""
    maps = (
        "100000000000-200000000000 rw-p 00000000 00:00 0\n200000000000-200040000000 rw-p 00000000 00:00 0\n"
    )
    directory = recorded(older, 200, STATUS.format(name="java", pid=200, vm_pte=4000), maps)
    with (directory / "pagemap").open("r+b") as pagemap:
        for address in (0x100000000000, 0x200000000000):
            pagemap.seek(address // PAGE * 8)
            pagemap.write((1 << 63).to_bytes(8, "little"))
        pagemap.truncate(0x200040000000 // PAGE * 8)
    (item,) = (item for item in collect(root=str(older)).objects if item.kind == "private")
    assert (item.tables, item.commands) == (1, {"java": (1, 1)})


def test_no_more_tables_than_a_process_has(older: Path) -> None:
    """Where huge pages look like small ones."""
    status = older / "proc/100/status"
    status.write_text(status.read_text().replace(" 400 kB", " 40 kB"))
    found = collect(root=str(older))
    assert {process.pid: process.tables for process in found.processes} == {3: 0, 100: 10, 101: 64}
    assert found.objects[0].tables == 74


def test_the_top_level_is_not_counted_where_there_is_no_room_for_it(older: Path) -> None:
    (older / "proc/meminfo").write_text("MemTotal: 1048576 kB\nPageTables: 812 kB\n")
    found = collect(root=str(older))
    assert (found.host.top_level, found.explained) == (0, 808 << 10)
    assert not found.host.huge_unknown


def test_what_of_the_host_is_hidden(older: Path) -> None:
    assert collect(root=str(older)).host.partial == []
    mounts = older / "proc/self/mountinfo"
    mounts.write_text("22 28 0:20 / /proc rw - proc proc rw,hidepid=invisible\n")
    (reason,) = collect(root=str(older)).host.partial
    assert reason == "/proc is mounted with hidepid=invisible: other users' processes are not seen"
    # Who sees the first process sees all: root, say.
    recorded(older, 1, STATUS.format(name="init", pid=1, vm_pte=8), "")
    assert collect(root=str(older)).host.partial == []
    (older / "proc/self/ns").mkdir()
    (older / "proc/self/ns/pid").symlink_to("pid:[4026532000]")
    (reason,) = collect(root=str(older)).host.partial
    assert "processes outside of it are not seen" in reason


def test_pages_are_counted_by_their_marks(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    flags = [1 << 26, 0, 1 << 26 | 1 << 3, 1 << 27, (1 << 64) - 1]
    data = b"".join(flag.to_bytes(8, "little") for flag in flags)
    (tmp_path / "proc/kpageflags").write_bytes(data * 300_000)
    assert host.Counting(str(tmp_path)).result() == 3 * 300_000 * PAGE
    assert host.Counting(str(tmp_path / "nowhere")).result() is None


def test_a_host_without_proc(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        collect(root=str(tmp_path))


@pytest.fixture
def _few_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if so few tables were too many."""
    monkeypatch.setattr(estimate, "_MANY", 100)


@pytest.mark.usefixtures("_few_tables")
def test_very_many_tables_are_reckoned_with() -> None:
    """32 processes, half of which are looked at; of the others some have touched half of it."""
    with memory(256 * MIB) as fd, memory(8 * MIB) as small:

        def act(granules: range) -> None:
            mapped(small, 8 * MIB, range(4), address=ADDRESS + syscalls.GIB)
            mapped(fd, 256 * MIB, granules)

        acts = [partial(act, range(128))] * 24 + [partial(act, range(64))] * 8
        with children(*acts) as pids:
            item, other = of_file(audit(pids), fd), of_file(audit(pids), small)
            exact = of_file(collect(Scope(pids=pids), count=False, exact=True), fd)
    assert (exact.tables, exact.estimated, exact.needed) == (24 * 128 + 8 * 64, 0, 128)
    assert (item.estimated, item.mappers) == (16, 32)
    # A process has a few tables more or less than another for other things.
    assert abs(item.tables - exact.tables) <= 16 * 8
    assert (item.needed, item.size) == (128, 256 * MIB)
    # Others of the process are looked at.
    assert (other.tables, other.estimated) == (32 * 4, 0)


@pytest.mark.usefixtures("_few_tables")
def test_no_more_is_reckoned_with_than_can_be() -> None:
    """Processes that have tables for something else: no more than the mapping can have, and no less than
    none."""
    with memory(64 * MIB) as fd:

        def act(private: int) -> None:
            mapped(fd, 64 * MIB, range(8))
            if private:
                at = syscalls.mmap(private, syscalls.RW, MAP_PRIVATE | syscalls.MAP_ANONYMOUS)
                syscalls.madvise(at, private, 15)  # MADV_NOHUGEPAGE
                for address in range(at, at + private, GRANULE):
                    ctypes.memset(address, 1, 1)

        with children(*[partial(act, 256 * MIB)] * 16, *[partial(act, 0)] * 2, partial(act, 1 << 30)) as pids:
            found = audit(pids)
            item = of_file(found, fd)
    assert (item.estimated, item.mappers) == (3, 19)
    assert item.tables == 16 * 8 + 2 * 0 + 32
    assert all(process.tables <= process.vm_pte // PAGE for process in found.processes)
