# SPDX-License-Identifier: MIT
"""In the guest: runs the programs that come from the host, one JSON object a line, each way."""

import json
import os
import sys
import time
from pathlib import Path

from ptshare.conform.calls import Program, Step
from ptshare.conform.kernel import Kernel

__all__ = ["main"]


def main(agents: str) -> None:
    """Serve until the host ends the guest.

    :param agents: directory with the compiled agent
    """
    port = int(os.environ["PTSHARE_MESSAGES_FD"])
    os.set_inheritable(port, False)
    pending = b""
    with Kernel(Path(agents)) as kernel:
        _write(port, b"{}\n")
        while True:
            data = os.read(port, 1 << 16)
            if not data:
                time.sleep(0.05)
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                files, steps = json.loads(line)
                program = Program(
                    tuple((kind, size) for kind, size in files),
                    tuple(Step(process, call, tuple(args)) for process, call, args in steps),
                )
                _write(port, json.dumps(kernel.run(program)).encode() + b"\n")


def _write(port: int, data: bytes) -> None:
    while data:
        data = data[os.write(port, data) :]


if __name__ == "__main__":
    main(sys.argv[1])
