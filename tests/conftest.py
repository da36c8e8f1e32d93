# SPDX-License-Identifier: MIT
"""Loads the plugin that runs guest tests in the lab's machine, and fixtures of several tests."""

pytest_plugins = ["guest_plugin", "lab_fixtures", "mapping_fixtures"]
