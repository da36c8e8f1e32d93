# SPDX-License-Identifier: MIT
"""Files that others read while they are written anew."""

import contextlib
import os
import sys
import tempfile

__all__ = ["write"]


def write(path: str, data: bytes) -> None:
    """Write a file whole: whoever reads it finds what was there before, or all of this. ``-``: standard
    output.

    What is no regular file, as /dev/stdout, is written to as it is.

    :raises OSError: it cannot be written; what was there before still is
    """
    if path == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    # A link stays one. A name with a dot in front is passed over by node_exporter.
    target = os.path.realpath(path)
    fd, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", dir=os.path.dirname(target))
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
