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
    :param terminal: give the guest ``/dev/hvc0`` on QEMU's standard input and output
    """

    kernel: Path
    memory: int
    cpus: int
    kvm: bool
    console: Path
    ports: dict[str, int] = field(default_factory=dict)
    terminal: bool = False


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


def _kernel_arguments(console: str, kvm: bool) -> list[str]:
    # Under KVM the guest has kvm-clock.
    timer = [] if kvm else [f"tsc_early_khz={clock.tsc_khz()}", "tsc=reliable"]
    return [
        *timer,
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
        raise LabError("virtme-ng is not installed; install it with: pip install 'ptshare[lab]'") from None
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
    argv += ["-device", arch.virtio_dev_type("rng")]
    argv += ["-kernel", str(machine.kernel)]
    argv += ["-append", " ".join(_kernel_arguments(arch.serial_console_args()[0], machine.kvm))]
    return argv
