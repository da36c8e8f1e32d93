# SPDX-License-Identifier: MIT
"""Numbers that make no sense are refused before anything is built or booted."""

import pytest

from ptshare import cli


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "--cpus", "0"], "argument --cpus: wanted processors, 1 to 255, found '0'"),
        (["lab", "run", "--cpus", "0", "--", "true"], "wanted processors, 1 to 255, found '0'"),
        (["lab", "shell", "--cpus", "-2"], "found '-2'"),
        (["lab", "run", "--timeout", "-1", "--", "true"], "wanted seconds, more than 0 and at most 1e+07"),
        (["lab", "mutants", "--timeout", "nan"], "found 'nan'"),
        (["conform", "--seconds", "-1"], "argument --seconds: wanted seconds, 0 or more and"),
        (["conform", "--seconds", "many"], "found 'many'"),
    ],
)
def test_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
