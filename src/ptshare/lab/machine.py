# SPDX-License-Identifier: MIT
"""The virtual machine: QEMU's command line, with virtme-ng's knowledge of QEMU and of the architecture."""

import platform
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ptshare.lab import clock
from ptshare.lab.errors import LabError

__all__ = ["AGENT", "Machine", "command", "parse_size"]

#: The guest's process 1.
AGENT = Path(__file__).with_name("agent.py")

_SIZES = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Machine:
    """What to boot, and with what.

    :param kernel: the bzImage
    :param memory: bytes
    :param cpus: number of processors
    :param kvm: use KVM; else QEMU emulates
    :param console: file that gets what the kernel prints
    :param ports: name -> file descriptor of a connected socket, inherited by QEMU; one virtio-serial port
        each
    :param scratch: file descriptor of the file behind ``/dev/vda``, inherited by QEMU; ``None``: no such disk
    :param terminal: give the guest ``/dev/hvc0`` on QEMU's standard input and output
    :param giant_pages: hugetlb pages of 1 GiB that are reserved at boot: later none is free as a whole
    :param icount: the guest's clock counts its instructions, one a nanosecond; emulated only
    """

    kernel: Path
    memory: int
    cpus: int
    kvm: bool
    console: Path
    ports: dict[str, int] = field(default_factory=dict)
    scratch: int | None = None
    terminal: bool = False
    giant_pages: int = 0
    icount: bool = False


def parse_size(text: str) -> int:
    """Bytes of a size as QEMU takes it: a number and K, M, G or T; without a letter it is mebibytes.

    :raises LabError: it is no such size
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise LabError(f"memory size {text!r} is not a number with K, M, G or T, such as 4G")
    return int(float(match[1]) * _SIZES[match[2].upper()])


def _quoted(text: str) -> str:
    """A word of the kernel's command line; the kernel knows double quotes, and no way to escape one."""
    if '"' in text:
        raise LabError(f"the lab cannot run from a path with a double quote in it: {text}")
    return f'"{text}"' if " " in text else text


def _timer_arguments(machine: Machine) -> list[str]:
    """What the guest is told of its clocks.

    Under KVM it has kvm-clock, and trusts the timer. On a busy host emulation may deliver too few interrupts
    of it while the guest counts them.
    """
    if machine.kvm:
        return []
    khz = clock.ICOUNT_KHZ if machine.icount else clock.tsc_khz()
    # Addresses are the same each time. While an idle guest waits for its disk its clock runs from timer to
    # timer, and minutes may pass in it: no task hangs.
    counted = ["norandmaps", "sysctl.kernel.hung_task_timeout_secs=0"] if machine.icount else []
    return [f"tsc_early_khz={khz}", "tsc=reliable", "no_timer_check", *counted]


def _kernel_arguments(console: str, machine: Machine) -> list[str]:
    giant = ["hugepagesz=1G", f"hugepages={machine.giant_pages}"] if machine.giant_pages else []
    return [
        *_timer_arguments(machine),
        *giant,
        f"console={console}",
        f"earlyprintk=serial,{console},115200",
        # Warnings and all that is worse, and the notices of the test harness; info messages would slow the
        # boot.
        "loglevel=6",
        # A panic restarts, and QEMU is told to end at a restart.
        "panic=-1",
        # The host's files. Nobody but the guest's own overlay writes to them here, so caching is safe.
        "rootfstype=9p",
        "rootflags=trans=virtio,version=9p2000.L,msize=524288,access=any,cache=loose",
        "ro",
        f"init={_quoted(sys.executable)}",
        "--",
        "-I",
        "-S",
        _quoted(str(AGENT)),
    ]


def command(machine: Machine) -> list[str]:
    """QEMU's command line.

    :raises LabError: QEMU or virtme-ng is missing, or this is no x86-64 host
    """
    try:
        from virtme import architectures, qemu_helpers
    except ImportError:
        raise LabError("virtme-ng is not installed; in a checkout of ptshare: pip install '.[lab]'") from None
    if platform.machine() != "x86_64":
        raise LabError(f"the lab needs an x86-64 host; this is {platform.machine()}")
    arch = architectures.get("x86_64")
    try:
        qemu = qemu_helpers.Qemu(None, arch.qemuname)
    except ValueError:
        raise LabError(
            "QEMU is missing (no qemu-system-x86_64 in PATH); install with: apt-get install qemu-system-x86"
        ) from None
    qemu.probe()

    argv = [str(qemu.qemubin), "-name", "ptshare-lab"]
    if machine.kvm:
        argv += ["-accel", "kvm"]
    elif machine.icount:
        # One thread for all processors: they take turns, by instructions. An idle guest does not wait, its
        # clock jumps to the next timer.
        argv += ["-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=0,sleep=off,align=off"]
        # What the guest takes for random is the same each time.
        argv += ["-rtc", "clock=vm", "-seed", "1"]
    else:
        # One thread a processor, with room for the code that QEMU generates: Python alone fills the default.
        argv += ["-accel", "tcg,thread=multi,tb-size=512"]
    argv += arch.qemuargs(True, machine.kvm, False)
    if "-machine" not in argv:
        argv += ["-machine", "q35"]
    argv += ["-m", f"{machine.memory >> 20}M"]
    # Without ACPI the kernel counts processors in the MP table, which lists one a package.
    argv += ["-smp", f"{machine.cpus},sockets={machine.cpus},cores=1,threads=1"]
    argv += arch.qemu_nodisplay_args()
    argv += ["-no-user-config", "-no-reboot", "-parallel", "none", "-net", "none", "-monitor", "none"]

    def quote(value: object) -> str:
        return str(qemu.quote_optarg(str(value)))

    argv += ["-chardev", f"file,id=console,path={quote(machine.console)}"]
    argv += arch.qemu_serial_console_args()
    argv += ["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"]
    argv += ["-device", f"{arch.virtio_dev_type('9p')},fsdev=root,mount_tag=/dev/root"]
    argv += ["-device", f"{arch.virtio_dev_type('serial')},max_ports={len(machine.ports) + 2}"]
    if machine.terminal:
        argv += [
            "-chardev",
            "stdio,id=terminal,signal=off,mux=off",
            "-device",
            "virtconsole,chardev=terminal",
        ]
    for name, fd in machine.ports.items():
        argv += ["-chardev", f"socket,id={name},fd={fd}"]
        argv += ["-device", f"virtserialport,name=ptshare.{name},chardev={name}"]
    if machine.scratch is not None:
        # Nothing of it has to survive the guest, and what it discards is given back. A full disk here
        # is an I/O error there; by default it would stop the guest without a word.
        disk = f"file=/proc/self/fd/{machine.scratch},if=none,id=scratch,format=raw,"
        argv += ["-drive", disk + "cache=unsafe,aio=threads,discard=unmap,werror=report"]
        argv += ["-device", f"{arch.virtio_dev_type('blk')},drive=scratch"]
    argv += ["-device", arch.virtio_dev_type("rng")]
    if "q35" in argv:
        # Its memory can be mapped in whole granules, by a file that is no page cache.
        argv += ["-device", "pci-testdev,membar=4M"]
    argv += ["-kernel", str(machine.kernel)]
    console = arch.serial_console_args()[0]
    argv += ["-append", " ".join(_kernel_arguments(console, machine))]
    return argv
