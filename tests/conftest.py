# SPDX-License-Identifier: MIT
"""Loads the plugin that runs guest tests in the lab's machine, and fixtures of several tests; makes tests
independent of the terminal, the shell and the speed of the machine they run on.
"""

import os
import signal

import hypothesis

pytest_plugins = ["guest_plugin", "lab_fixtures", "mapping_fixtures"]

#: What somebody may have set for himself, and would change what programs under test print or do.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
    os.environ.pop(_name, None)

# What a shell runs in the background ignores both, and so would all that tests start and send them to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# An example that takes longer than others says something of the machine, not of the code.
hypothesis.settings.register_profile(
    "ptshare", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ptshare")
