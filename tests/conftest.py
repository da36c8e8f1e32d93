# SPDX-License-Identifier: MIT
"""Loads the plugin that runs guest tests in the lab's machine, and fixtures of several tests; makes tests
independent of the terminal and the shell that they are started from.
"""

import os
import signal

import pytest

pytest_plugins = ["guest_plugin", "lab_fixtures", "mapping_fixtures"]

#: What somebody may have set for himself, and would change what programs under test print or do.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
    os.environ.pop(_name, None)

# What a shell runs in the background ignores both, and so would all that tests start and send them to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis does not watch the clock: what takes long says something of the machine, not of the code."""
    if config.getoption("--guest-inner"):
        return  # it has no such tests, and would take seconds for the import
    import hypothesis

    quiet = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("ptshare", deadline=None, suppress_health_check=quiet)
    hypothesis.settings.load_profile("ptshare")
