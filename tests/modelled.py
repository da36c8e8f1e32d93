# SPDX-License-Identifier: MIT
"""What runs programs as a kernel does, and is the model: with or without a mistake."""

from typing import Any

from ptshare.conform.calls import Program
from ptshare.conform.expected import Model


class Modelled:
    """The model in a kernel's place.

    :param model: its class; one with a mistake diverges
    """

    def __init__(self, model: type[Model] = Model) -> None:
        self._model = model
        self.programs: list[Program] = []

    def run(self, program: Program) -> dict[str, Any]:
        """What :meth:`ptshare.conform.kernel.Kernel.run` tells."""
        self.programs.append(program)
        model = self._model(program.files)
        steps = []
        for step in program.steps:
            answer, view = model.step(step)
            processes = {
                str(place): {
                    "maps": seen.maps,
                    "present": seen.present,
                    "own": seen.own[0],
                    "shared": seen.shared,
                }
                for place, seen in view.processes.items()
            }
            sysfs = [view.domains, view.guests[0], view.tables[0]]
            steps.append({"answer": list(answer), "sysfs": sysfs, "processes": processes})
        return {"steps": steps, "page_tables": [0, 0], "left": [0, 0, 0]}
