# SPDX-License-Identifier: MIT
"""Loads the plugin that runs guest tests in the lab's machine, and the fixtures of the lab's own tests."""

pytest_plugins = ["guest_plugin", "lab_fixtures"]
