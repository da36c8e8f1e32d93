# SPDX-License-Identifier: MIT
"""The lab: kernel source -> patched tree -> image -> running guest -> result.

>>> image = build_image(progress=print)
>>> result = run_guest(["uname", "-r"], image=image, stdout=sys.stdout.buffer.write)
>>> result.ok
True
"""

from ptshare.lab.console import Report
from ptshare.lab.errors import LabError
from ptshare.lab.guest import GuestResult, run_guest
from ptshare.lab.image import Image, Progress, build_image

__all__ = ["GuestResult", "Image", "LabError", "Progress", "Report", "build_image", "run_guest"]
