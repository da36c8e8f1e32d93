# SPDX-License-Identifier: MIT
"""Whether KVM works. /dev/kvm may be there and open, and ordinary guests still not run: so run one."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from ptshare.lab import cache

__all__ = ["works"]

#: A working KVM boots the lab's kernel to its panic for want of a root file system in about a second.
_PROBE_SECONDS = 10.0
_FIRST_OUTPUT_SECONDS = 4.0


def _boots(kernel: Path) -> bool:
    """Boot ``kernel`` under KVM, without a root, and see whether it gets as far as looking for one."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        return False
    # fmt: off
    command = [
        "setpriv", "--pdeathsig", "KILL", "--", qemu,
        "-accel", "kvm", "-machine", "q35", "-cpu", "host", "-smp", "2,sockets=2", "-m", "512M",
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-kernel", str(kernel), "-append", "console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1",
    ]
    # fmt: on
    started = time.monotonic()
    output = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        while True:
            output += process.stdout.read() or b""
            elapsed = time.monotonic() - started
            if process.poll() is not None:
                output += process.stdout.read() or b""
                break
            if elapsed > _PROBE_SECONDS or (not output and elapsed > _FIRST_OUTPUT_SECONDS):
                process.kill()
                break
            time.sleep(0.05)
    return b"Unable to mount root fs" in output


def works(kernel: Path) -> bool:
    """Whether ``kernel`` boots under KVM. Tried once a boot of the host; PTSHARE_KVM=0 or 1 overrides."""
    override = os.environ.get("PTSHARE_KVM")
    if override:
        return override != "0"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = cache.directory() / "kvm"
    if answer.exists() and answer.read_text().split()[:1] == [boot]:
        return answer.read_text().split()[1] == "yes"
    result = _boots(kernel)
    answer.write_text(f"{boot} {'yes' if result else 'no'}\n")
    return result
