# SPDX-License-Identifier: MIT
"""Loads the plugin that runs guest tests in the lab's machine."""

pytest_plugins = ["guest_plugin"]
