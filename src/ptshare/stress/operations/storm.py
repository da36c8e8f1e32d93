# SPDX-License-Identifier: MIT
"""Files on which nobody waits for anybody: writing, punching and truncating race with each other and with all
faults. Each page has one content, always the same, or zeros; an access beyond the end is refused.
"""

import errno
import os

from ptshare.stress import content
from ptshare.stress.operations import operation
from ptshare.stress.operations.file_changes import punch_hole
from ptshare.stress.sequence import Draw
from ptshare.stress.worker import Worker, Wrong
from ptshare.syscalls import GRANULE, PAGE


@operation("storm.read", 50)
def read(worker: Worker, draw: Draw) -> bool | None:
    picked = worker.pick(draw, "storm")
    if picked is None:
        return False
    window, page = picked
    file, address = window.file, window.at(page)
    way = draw.below(3)
    if way == 0:
        data = worker.ways.read_by_call(address, PAGE)
    elif way == 1:
        data = worker.ways.read_by_gup(address, PAGE)
    else:
        data = worker.read_file(file, page)
    if data is not None:
        constant = worker.content(file, page, content.CONSTANT)[: len(data)]
        if not content.consists_of(data, [constant, bytes(len(data))]):
            raise Wrong(
                f"file {file.number} ({file.name}), page {page}, at {address:#x}, way {way}, was never "
                f"written like this: {content.describe(data.ljust(PAGE))}"
            )
    worker.control.verified[worker.number] += 1
    return None


@operation("storm.write", 60)
def write(worker: Worker, draw: Draw) -> bool | None:
    picked = worker.pick(draw, "storm", write=True)
    if picked is None:
        return False
    window, page = picked
    file, address = window.file, window.at(page)
    data = worker.content(file, page, content.CONSTANT)
    way = draw.below(3)
    if way == 0:
        worker.ways.write_by_call(address, data)
    elif way == 1:
        worker.ways.write_by_gup(address, data)
    else:
        os.pwrite(worker.descriptor(file), data, page * PAGE)
    return None


@operation("storm.punch", 15)
def punch(worker: Worker, draw: Draw) -> bool | None:
    picked = worker.pick(draw, "storm")
    if picked is None:
        return False
    window, page = picked
    punch_hole(worker.descriptor(window.file), page, draw.choice((1, 2, 8, 64, 512, 600)))
    return None


@operation("storm.truncate", 15)
def truncate(worker: Worker, draw: Draw) -> bool | None:
    """To any length, also in the middle of a page."""
    files = [file for file in worker.files if file.role == "storm"]
    file = draw.choice(files)
    size = draw.choice((file.size, file.size, GRANULE, draw.below(file.size), draw.below(file.pages) * PAGE))
    worker.note(file.number, more=size)
    os.ftruncate(worker.descriptor(file), size)
    return None


@operation("storm.allocate", 5)
def allocate(worker: Worker, draw: Draw) -> bool | None:
    """Blocks for a part of the file, which grows if need be."""
    file = draw.choice([file for file in worker.files if file.role == "storm"])
    page = draw.below(file.pages - 64)
    worker.note(file.number, page=page)
    try:
        os.posix_fallocate(worker.descriptor(file), page * PAGE, draw.between(1, 64) * PAGE)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    return None
