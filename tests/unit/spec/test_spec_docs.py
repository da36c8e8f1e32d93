# SPDX-License-Identifier: MIT
"""The example on the page of the model gives what stands beside it."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "docs/spec.md"


def test_the_example() -> None:
    match = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match is not None
    names: dict[str, Any] = {}
    told = 0
    # A statement begins at the margin.
    for statement in re.split(r"\n(?=\S)", match[1].strip()):
        code, _, result = statement.partition("  # ")
        if result:
            assert repr(eval(code, names)) == result.strip()
            told += 1
        else:
            exec(statement, names)
    assert told == 4
