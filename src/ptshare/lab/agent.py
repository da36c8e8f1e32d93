# SPDX-License-Identifier: MIT
"""The guest's process 1: makes a root, runs the job that the host sends, reports its status, powers off.

Runs as ``python3 -I -S agent.py``, on the host's files, so it needs nothing of the host's userland but the
Python that the lab itself runs on: no udev, no systemd, no mount(8). It imports little, since under emulation
each import counts. The port names are read from sysfs: the names under /dev/virtio-ports would need udev.

Protocol, one JSON object a line on the port ``ptshare.control``:

* host: ``{"argv": [...], "cwd": "...", "env": {...}, "tty": "hvc0" | null}``, then perhaps ``{"dump": true}``
* guest: ``{"ready": true}``, later ``{"status": 0}``
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import struct
import sys
import termios
import time
from typing import Any

PORTS = ("control", "stdout", "stderr", "messages")

#: Scratch of the guest: a tmpfs, where test files and disk images go. TMPDIR names it.
SCRATCH = "/run/ptshare"

MS_NOSUID, MS_NODEV, MS_NOEXEC, MNT_DETACH = 2, 4, 8, 2
RB_AUTOBOOT, RB_POWER_OFF = 0x01234567, 0x4321FEDC
SYS_PIVOT_ROOT = {"x86_64": 155}
SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """Raise OSError naming ``what`` if a libc call failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(kind: str, target: str, options: str = "", flags: int = 0) -> None:
    """mount(2) of a file system that has no device."""
    check(
        libc.mount(kind.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {kind} on {target}",
    )


def make_root() -> None:
    """Lay a tmpfs over the host's read-only root: the guest writes anywhere, the host keeps its files."""
    mount("tmpfs", "/run", "mode=0755")
    for name in ("upper", "work", "root"):
        os.mkdir(f"/run/{name}")
    mount("overlay", "/run/root", "lowerdir=/,upperdir=/run/upper,workdir=/run/work,xino=off")
    os.chdir("/run/root")
    # The old root is stacked under the new one and detached: pivot_root(2), "pivot_root(".", ".")".
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def mount_all() -> None:
    """Mount what a Linux program expects."""
    safe = MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount("proc", "/proc", flags=safe)
    mount("sysfs", "/sys", flags=safe)
    mount("devtmpfs", "/dev", "mode=0755", MS_NOSUID)
    for path in ("/dev/pts", "/dev/shm", "/dev/mqueue"):
        os.makedirs(path, exist_ok=True)
    mount("devpts", "/dev/pts", "mode=0620,ptmxmode=0666")
    mount("tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV)
    mount("tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV)
    os.mkdir(SCRATCH)
    mount("tmpfs", SCRATCH, "mode=1777,size=90%")
    for kind, target in (
        ("cgroup2", "/sys/fs/cgroup"),
        ("mqueue", "/dev/mqueue"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
    ):
        if os.path.isdir(target):
            try:
                mount(kind, target)
            except OSError as error:  # not in this configuration
                if error.errno != errno.ENODEV:
                    raise
    for link, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        if not os.path.lexists(f"/dev/{link}"):
            os.symlink(f"/proc/self/fd{target}", f"/dev/{link}")


def write_file(path: str, text: str) -> None:
    """Write ``text`` to a file of procfs or sysfs."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def prepare() -> None:
    """Bring up the loopback interface and hand the memory controller to child cgroups."""
    sock = check(libc.socket(2, 2, 0), "socket")
    fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP_RUNNING))
    os.close(sock)
    write_file("/proc/sys/kernel/hostname", "ptshare-lab")
    controllers = "/sys/fs/cgroup/cgroup.subtree_control"
    if os.path.exists(controllers):
        with open("/sys/fs/cgroup/cgroup.controllers", encoding="ascii") as file:
            write_file(controllers, " ".join(f"+{name}" for name in file.read().split()))


def open_ports(wanted: tuple[str, ...]) -> dict[str, int]:
    """Open the virtio-serial ports by name; they appear one by one while the driver talks to the host."""
    directory = "/sys/class/virtio-ports"
    ports: dict[str, int] = {}
    while len(ports) < len(wanted):
        for entry in os.listdir(directory) if os.path.isdir(directory) else ():
            try:
                with open(f"{directory}/{entry}/name", encoding="ascii") as file:
                    name = file.read().strip().removeprefix("ptshare.")
            except OSError:
                continue
            if name in wanted and name not in ports:
                ports[name] = os.open(f"/dev/{entry}", os.O_RDWR | os.O_CLOEXEC)
        if len(ports) < len(wanted):
            time.sleep(0.02)
    return ports


def write_all(fd: int, data: bytes) -> None:
    """write(2) until all is written."""
    while data:
        data = data[os.write(fd, data) :]


def send(control: int, message: dict[str, Any]) -> None:
    """One message to the host."""
    write_all(control, json.dumps(message).encode() + b"\n")


def receive(control: int) -> dict[str, Any]:
    """One message from the host."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(control, 65536)
        if not byte:  # nobody at the other end yet
            time.sleep(0.05)
        line += byte
    message: dict[str, Any] = json.loads(line)
    return message


def start(job: dict[str, Any], files: list[int], messages: int) -> int:
    """Fork and execute the job with ``files`` as its standard files and ``messages`` inherited."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for number, fd in enumerate(files):
            os.dup2(fd, number)
        if job.get("tty"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.set_inheritable(messages, True)
        environment = dict(job["env"], PTSHARE_MESSAGES_FD=str(messages), TMPDIR=SCRATCH)
        os.chdir(job["cwd"])
        for number in (signal.SIGPIPE, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(job["argv"][0], job["argv"], environment)
    except OSError as error:
        os.write(2, f"{job['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127 if error.errno == errno.ENOENT else 126)
    except BaseException as error:
        os.write(2, f"cannot start the job: {error}\n".encode())
        os._exit(126)


def dump_tasks(job: int) -> None:
    """The host's time for us is up: tell what is blocked, where each processor is, and where the job is.

    SIGABRT makes Python's faulthandler, which pytest enables, print a traceback.
    """
    for key in ("w", "l"):
        write_file("/proc/sysrq-trigger", key)
    with contextlib.suppress(ProcessLookupError):
        os.kill(job, signal.SIGABRT)


def supervise(pid: int, routes: dict[int, int], control: int) -> int:
    """Copy the job's output to its ports until the job ends, reap orphans, and return its exit status."""
    poll = select.poll()
    for source in routes:
        poll.register(source, select.POLLIN)
    poll.register(control, select.POLLIN)
    # A child's end wakes the poll through this pipe.
    wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll.register(wake, select.POLLIN)
    status = None
    while status is None or routes:
        for fd, event in poll.poll(500):
            if fd == control:
                if event & select.POLLIN and receive(control).get("dump"):
                    dump_tasks(pid)
                elif event & select.POLLHUP:  # the host is gone; nobody waits for the job
                    power_off()
            elif fd == wake:
                os.read(wake, 4096)
            else:
                data = os.read(fd, 65536)
                if data:
                    write_all(routes[fd], data)
                else:
                    poll.unregister(fd)
                    del routes[fd]
        while True:
            try:
                ended, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not ended:
                break
            if ended == pid:
                code = os.waitstatus_to_exitcode(raw)
                status = code if code >= 0 else 128 - code
                # What the job left behind must not keep its pipes open for ever.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
    return status


def power_off() -> None:
    """End the guest. There is no ACPI: a restart, which QEMU is told to take as the end."""
    os.sync()
    libc.reboot(RB_AUTOBOOT)


def run_on_terminal(job: dict[str, Any], messages: int) -> int:
    """An interactive job has the terminal itself."""
    terminal = os.open(f"/dev/{job['tty']}", os.O_RDWR | os.O_NOCTTY)
    if job.get("size"):
        rows, columns = job["size"]
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    return start(job, [terminal, terminal, terminal], messages)


def main() -> None:
    """Process 1. If it fails the kernel panics, and so the host sees it."""
    make_root()
    mount_all()
    prepare()
    ports = open_ports(PORTS)
    control = ports["control"]
    send(control, {"ready": True})
    job = receive(control)
    if job.get("tty"):
        pid, routes = run_on_terminal(job, ports["messages"]), {}
    else:
        null = os.open("/dev/null", os.O_RDONLY)
        out, out_writer = os.pipe2(os.O_CLOEXEC)
        err, err_writer = os.pipe2(os.O_CLOEXEC)
        pid = start(job, [null, out_writer, err_writer], ports["messages"])
        os.close(out_writer)
        os.close(err_writer)
        routes = {out: ports["stdout"], err: ports["stderr"]}
    status = supervise(pid, routes, control)
    sys.stderr.flush()
    send(control, {"status": status})
    power_off()


if __name__ == "__main__":
    main()
