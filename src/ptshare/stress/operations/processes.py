# SPDX-License-Identifier: MIT
"""Fork, exec, exit."""

import os
import sys

from ptshare.stress.operations import operation
from ptshare.stress.sequence import Draw
from ptshare.stress.worker import Worker

#: The package is found where this one was found, and nothing else is looked for.
_PROGRAM = "import sys; sys.path.append({path!r}); from ptshare.stress.worker import main; main()"


@operation("process.fork", 6, in_child=False)
def fork(worker: Worker, draw: Draw) -> bool | None:
    """A child works on with the mappings of its parent, and exits."""
    if not worker.reap():
        return False
    operations = draw.between(1, 60)
    worker.note(more=operations)
    worker.fork(operations)
    return None


@operation("process.exec", 0.6, in_child=False)
def execute(worker: Worker, draw: Draw) -> bool | None:
    """Another program in this process: it begins anew, without a mapping."""
    if not worker.reap():
        return False
    _count(worker, "process.exec")
    worker.control.lives[worker.number] += 1
    for fd in worker.setup.descriptors:
        os.set_inheritable(fd, True)
    path = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    program = _PROGRAM.format(path=path)
    os.execv(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", program, str(worker.number), worker.setup.as_json()],
    )


@operation("process.exit", 0.6, in_child=False)
def leave(worker: Worker, draw: Draw) -> bool | None:
    """With all mappings; the supervisor starts it again."""
    if not worker.reap():
        return False
    _count(worker, "process.exit")
    os._exit(0)


def _count(worker: Worker, name: str) -> None:
    """Count what does not return."""
    from ptshare.stress.operations import kinds

    index = next(index for index, kind in enumerate(kinds()) if kind.name == name)
    worker.control.counts(worker.number)[index] += 1
