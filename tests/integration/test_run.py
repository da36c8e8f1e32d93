# SPDX-License-Identifier: MIT
"""``ptshare run`` on the patched kernel: unmodified programs share, and notice nothing."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: The command, for whatever Python runs the tests.
COMMAND = [sys.executable, "-c", "from ptshare.cli import main; raise SystemExit(main())", "run"]
RANDOM = Path(__file__).with_name("random_calls.py")
MIB = 1 << 20


def ptshare_run(*command: str, options: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    """Run a program; what it prints, and the report."""
    arguments = ["--report", "--json", *options, "--", *command]
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(result.stderr)
    return result.stdout, report


def objects(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {found["name"]: found for found in report["objects"]}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.guest_timeout(600)
def test_random_calls_do_the_same(seed: int) -> None:
    """A program that makes random calls sees what it sees with ordinary page tables."""
    command = [sys.executable, str(RANDOM), str(seed), "40"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    shared, report = ptshare_run(*command, options=("--min-size", "2M"))
    assert shared == plain.stdout
    for name in ("anonymous", "/memfd:file0 (deleted)", "/memfd:file1 (deleted)"):
        assert objects(report)[name]["shared"] > 20
        assert objects(report)[name]["refused"] == {}
        assert objects(report)[name]["converted"]


#: Prints VmPTE and VmSharedPT, KiB, of a process.
TABLES = """
import mmap, os, sys, time, ctypes
def tables():
    status = open("/proc/self/status").read().split()
    return tuple(int(status[status.index(name) + 1]) for name in ("VmPTE:", "VmSharedPT:"))
def touch(memory):
    for at in range(0, len(memory), 4096):
        memory[at]
"""


def python(code: str, *options: str, arguments: tuple[str, ...] = ()) -> tuple[Any, dict[str, Any]]:
    """Run Python code, which prints JSON."""
    out, report = ptshare_run(
        sys.executable, "-c", f"import json\n{TABLES}\n{code}", *arguments, options=options
    )
    return json.loads(out), report


ANONYMOUS = """
memory = mmap.mmap(-1, 64 << 20 | 5000)
memory[:] = bytes(len(memory))
before = tables()
def child():
    own, _ = tables()
    touch(memory)
    grown, shared = tables()
    return grown - own, shared
reader, writer = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        os.write(writer, repr(child()).encode().ljust(100))
        os._exit(0)
print(json.dumps([eval(os.read(reader, 100)) for _ in range(4)]))
for _ in range(4):
    os.wait()
"""


def test_anonymous_memory_of_children() -> None:
    """66 MiB: 33 tables, which each child would have for itself."""
    found, report = python(ANONYMOUS)
    for grown, shared in found:
        assert grown <= 16
        assert shared == 66 * 1024
    assert objects(report)["anonymous"]["shared"] == 1
    assert objects(report)["anonymous"]["bytes"] == (64 * MIB | 8191) + 1
    ended = [process for process in report["processes"] if process["shared_bytes"] == 66 * MIB]
    assert len(ended) >= 4


FILE = """
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
own, _ = tables()
touch(memory)
grown, shared = tables()
print(json.dumps([grown - own, shared]))
"""


def test_a_file_and_which_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(16 * MIB))
    (grown, shared), report = python(FILE, arguments=(str(path),))
    assert shared == 16 * 1024
    assert objects(report)[str(path)]["shared"] == 1
    left_alone = (("--min-size", "17M"), ("--only", "*.other"), ("--only", "anonymous"))
    taken = (("--only", f"{tmp_path}/*"), ("--only", "anonymous", "--only", "*/data"))
    for options in left_alone:
        (grown, shared), report = python(FILE, *options, arguments=(str(path),))
        assert shared == 0
        assert grown >= 8 * 4
        assert report["objects"] == []
    for chosen in taken:
        (_, shared), report = python(FILE, *chosen, arguments=(str(path),))
        assert shared == 16 * 1024


SYSV = """
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmdt.argtypes = [ctypes.c_void_p]
segment = libc.shmget(0, ctypes.c_size_t(16 << 20 | 5000), 0o1600)
first = libc.shmat(segment, None, 0)
second = libc.shmat(segment, None, 0o10000)
ctypes.memset(first, 7, 16 << 20)
own, _ = tables()
total = sum(ctypes.string_at(second, 16 << 20)[::4096])
grown, shared = tables()
def attached():
    return [line.split()[6] for line in open("/proc/sysvipc/shm") if line.split()[1] == str(segment)]
found = [total, grown - own, shared, attached()]
gone = [libc.shmdt(first), attached(), libc.shmdt(second), attached(), libc.shmdt(second), ctypes.get_errno()]
libc.shmctl(segment, 0, None)
print(json.dumps(found + gone + [tables()[1]]))
"""


def test_a_system_v_segment() -> None:
    found, report = python(SYSV)
    # Twice 8 granules; attached twice as the kernel counts it; a second shmdt() of one is EINVAL.
    assert found[0] == 7 * 4096
    assert found[1] <= 8
    assert found[2:] == [2 * 16 * 1024, ["2"], 0, ["1"], 0, ["0"], -1, 22, 0]
    assert objects(report)["sysv"]["shared"] == 2


LOCKS = """
import fcntl
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
memory = mmap.mmap(file.fileno(), 0)
half = mmap.mmap(file.fileno(), 8 << 20)    # Python closes a descriptor with each
touch(memory)
libc = ctypes.CDLL(None, use_errno=True)
def address(memory):
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + 4096)
shared = tables()[1]
results = [libc.mprotect(address(memory), ctypes.c_size_t(4096), 1)]
results += [libc.munmap(address(half), ctypes.c_size_t((8 << 20) - 4096))]
print(json.dumps([results, shared, tables()[1]]), flush=True)
sys.stdin.readline()
"""


def test_locks_on_a_file_are_kept(tmp_path: Path) -> None:
    """Closing any descriptor of the file would take them away (fcntl(2)); one mapping is converted."""
    path = tmp_path / "data"
    path.write_bytes(bytes(16 * MIB))
    command = [*COMMAND, "--", sys.executable, "-c"]
    with subprocess.Popen(
        [*command, f"import json\n{TABLES}\n{LOCKS}", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        results, shared, then = json.loads(process.stdout.readline())
        assert results == [0, 0]
        assert (shared, then) == (16 * 1024, 0)
        with path.open("r+b") as file, pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.communicate("\n")


PROTECT = """
memory = mmap.mmap(-1, 16 << 20)
memory[:] = bytes(len(memory))
libc = ctypes.CDLL(None, use_errno=True)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
reader, writer = os.pipe()
if os.fork() == 0:
    if sys.argv[1] == "closed":
        os.closerange(3, 1024)
    result = libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(16 << 20), 0)
    os._exit(0 if result == 0 else ctypes.get_errno())
_, status = os.wait()
memory[::4096] = bytes([1]) * (len(memory) // 4096)     # a SIGSEGV if it could not be written
print(json.dumps([os.waitstatus_to_exitcode(status), tables()[1]]))
"""


@pytest.mark.parametrize("descriptors", ["open", "closed"])
def test_one_process_does_not_change_the_rights_of_another(descriptors: str) -> None:
    (status, shared), report = python(PROTECT, arguments=(descriptors,))
    assert status == 0
    assert shared == 16 * 1024
    assert objects(report)["anonymous"]["converted"] == {"mprotect": 1}


def test_where_memory_is_committed_anonymous_memory_is_promised_first() -> None:
    mode = Path("/proc/sys/vm/overcommit_memory")
    before = mode.read_text()
    mode.write_text("2")
    try:
        found, report = python(ANONYMOUS)
        assert [shared for _, shared in found] == [66 * 1024] * 4
        (status, shared), report = python(PROTECT, arguments=("open",))
        assert (status, shared) == (0, 16 * 1024)
        assert objects(report)["anonymous"]["converted"] == {"mprotect": 1}
    finally:
        mode.write_text(before)


@pytest.fixture(scope="session")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Threads that map and unmap, with signals, forks and cancellation: tests/integration/map_threads.c."""
    program = tmp_path_factory.mktemp("threads") / "map_threads"
    source = Path(__file__).with_name("map_threads.c")
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(program), str(source)]
    subprocess.run(command, check=True)
    return program


def test_threads_signals_forks_and_cancellation(threads: Path) -> None:
    out, report = ptshare_run(str(threads), "5")
    assert out == "ok\n"
    assert objects(report)["anonymous"]["shared"] > 50


def test_more_mappings_than_the_table_holds() -> None:
    code = """
files = [mmap.mmap(-1, 8 << 20) for _ in range(600)]
for number, memory in enumerate(files):
    memory[0] = number % 256
shared = tables()[1]
right = all(memory[0] == number % 256 for number, memory in enumerate(files))
for memory in files:
    memory.close()
print(json.dumps([shared, right, tables()[1]]))
"""
    (shared, right, then), report = python(code)
    assert (shared, right, then) == (512 * 2048, True, 0)
    assert objects(report)["anonymous"]["refused"] == {"ENOMEM": 88}


def test_the_report_for_people(tmp_path: Path) -> None:
    path = tmp_path / "report"
    command = [*COMMAND, f"--report={path}", "--"]
    code = f"import json\n{TABLES}\n{ANONYMOUS}\ntime.sleep(2.5)"
    result = subprocess.run(
        [*command, sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    text = path.read_text()
    assert "64.0 MiB  anonymous: once with shared page tables" in text
    assert text.count("66 MiB") >= 4


def test_switched_off(tmp_path: Path) -> None:
    switch = Path("/sys/kernel/mm/ptshare/enabled")
    path = tmp_path / "data"
    path.write_bytes(bytes(16 * MIB))
    switch.write_text("0")
    try:
        (grown, shared), report = python(FILE, arguments=(str(path),))
    finally:
        switch.write_text("1")
    assert (shared, grown >= 8 * 4) == (0, True)
    assert "switched off" in report["not_shared_because"]
    assert objects(report)[str(path)]["refused"] == {"EOPNOTSUPP": 1}


CALLS = """
libc = ctypes.CDLL(None, use_errno=True)
for name in ("mmap", "mremap"):
    getattr(libc, name).restype = ctypes.c_void_p
SIZE, PTR, M = ctypes.c_size_t, ctypes.c_void_p, 1 << 20
SHARED, PRIVATE, FIXED, ANONYMOUS = 1, 2, 0x10, 0x20
def anywhere(size):
    # Address space of our own, from a multiple of 2 MiB on.
    at = libc.mmap(None, SIZE(size + 2 * M), 0, PRIVATE | ANONYMOUS, -1, SIZE(0))
    return at + -at % (2 * M)
"""


def test_mremap_to_an_address_takes_no_more_than_asked() -> None:
    """What is behind the new place, in the same granule, is another mapping of the program."""
    code = """
at = libc.mmap(None, SIZE(8 * M), 3, SHARED | ANONYMOUS, -1, SIZE(0))
ctypes.memset(at, 7, 8 * M)
shared = tables()[1]
to = anywhere(16 * M)
behind = to + 8 * M - 4096
assert libc.mmap(PTR(behind), SIZE(4096), 3, PRIVATE | ANONYMOUS | FIXED, -1, SIZE(0)) == behind
ctypes.memset(behind, 9, 4096)
assert libc.mremap(PTR(at), SIZE(8 * M), SIZE(8 * M - 4096), 3, PTR(to)) == to
print(json.dumps([shared, ctypes.string_at(behind, 4096) == bytes([9]) * 4096,
    ctypes.string_at(to, 8 * M - 4096) == bytes([7]) * (8 * M - 4096)]))
"""
    found, _ = python(CALLS + code)
    assert found == [8 * 1024, True, True]


def test_a_full_table_leaves_no_hole() -> None:
    """Another thread would map something of its own there, before the plain call comes to it."""
    code = """
import threading
maps = [libc.mmap(None, SIZE(8 * M), 3, SHARED | ANONYMOUS, -1, SIZE(0)) for _ in range(512)]
for map in maps:
    ctypes.memset(map, 1, 1)
at = anywhere(16 * M)
end = time.monotonic() + 60
count = 0
def others():
    taken = 0
    while count < 60 and time.monotonic() < end:
        found = libc.mmap(PTR(at), SIZE(4096), 3, PRIVATE | ANONYMOUS, -1, SIZE(0))
        taken += at <= found < at + 8 * M
        libc.munmap(PTR(found), SIZE(4096))
    results.append(taken)
results = []
threads = [threading.Thread(target=others) for _ in range(3)]
for thread in threads: thread.start()
while count < 60 and time.monotonic() < end:
    assert libc.mmap(PTR(at), SIZE(8 * M), 3, SHARED | ANONYMOUS | FIXED, -1, SIZE(0)) == at
    count += 1
for thread in threads: thread.join()
print(json.dumps([sum(results), tables()[1]]))
"""
    found, report = python(CALLS + code)
    assert found == [0, 512 * 2048]
    assert objects(report)["anonymous"]["refused"]["ENOMEM"] > 50


def test_a_descriptor_that_cannot_be_mapped_is_not_borrowed(tmp_path: Path) -> None:
    """The only one that is left of the file has O_PATH: there are other ways to the file."""
    path = tmp_path / "data"
    path.write_bytes(bytes(16 * MIB))
    code = """
fd = os.open(sys.argv[1], os.O_RDONLY)
at = libc.mmap(None, SIZE(16 * M), 1, SHARED, fd, SIZE(0))
ctypes.string_at(at, 16 * M)
shared = tables()[1]
os.close(fd)
fd = os.open(sys.argv[1], os.O_PATH)
print(json.dumps([shared, libc.mprotect(PTR(at), SIZE(4096), 0), tables()[1]]))
"""
    found, report = python(CALLS + code, arguments=(str(path),))
    assert found == [16 * 1024, 0, 0]
    assert objects(report)[str(path)]["converted"] == {"mprotect": 1}


def test_who_asks_for_it_gets_what_the_kernel_gives() -> None:
    """Protection of a mapping with MAP_SHARED_PT is everybody's; the library makes none of it ordinary."""
    code = """
fd = os.memfd_create("asked")
os.ftruncate(fd, 16 * M)
at = libc.mmap(None, SIZE(16 * M), 3, 3 | 0x200000, fd, SIZE(0))
ctypes.memset(at, 7, 16 * M)
result = libc.mprotect(PTR(at), SIZE(16 * M), 1)
refused = libc.munmap(PTR(at), SIZE(4096)), ctypes.get_errno()
print(json.dumps([result, refused, tables()[1]]))
"""
    found, report = python(CALLS + code)
    assert found == [0, [-1, 22], 16 * 1024]
    assert report["objects"] == []


def test_odd_file_names_take_one_line_of_the_report(tmp_path: Path) -> None:
    path = tmp_path / "a\tname of\ntwo lines \\ \rand \x0cmore"
    path.write_bytes(bytes(16 * MIB))
    (_, shared), report = python(FILE, arguments=(str(path),))
    assert shared == 16 * 1024
    name = str(path).replace("\t", "\\011").replace("\n", "\\012")
    assert objects(report)[name]["shared"] == 1
