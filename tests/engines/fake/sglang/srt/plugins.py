"""Plugins: every entry point of the group, once a process, a failing one being a log line."""

from __future__ import annotations

import logging
import os
from importlib.metadata import entry_points

GENERAL_PLUGINS_GROUP = "sglang.srt.plugins"

_plugins_loaded = False


def load_plugins() -> None:
    """Call the plugins that `SGLANG_PLUGINS` allows."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    allowed = [name.strip() for name in os.environ.get("SGLANG_PLUGINS", "").split(",") if name.strip()]
    for entry in entry_points(group=GENERAL_PLUGINS_GROUP):
        if allowed and entry.name not in allowed:
            continue
        try:
            entry.load()()
        except Exception:
            logging.getLogger(__name__).exception("Failed to execute general plugin: %s", entry.name)
