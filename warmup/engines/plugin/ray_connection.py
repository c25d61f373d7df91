"""Tell whether this process is connected to Ray, without importing Ray.

As light as the plugin's own module, which needs it in every process of an engine.
"""

from __future__ import annotations

import os
import sys

_disconnected = -1
"""Number of this process, if it was forked from one that was connected."""


def is_connected() -> bool:
    """Return True if this process has connected to Ray itself."""
    return _is_initialized() and _disconnected != os.getpid()


def note_fork() -> None:
    """Take note, in a child that was just forked, that its parent's connection is none of its own.

    The child has Ray's modules and none of its threads, so a question would never be answered.
    """
    global _disconnected
    if _is_initialized():
        _disconnected = os.getpid()


def _is_initialized() -> bool:
    # Missing also while Ray itself is being imported.
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)
    return is_initialized is not None and bool(is_initialized())
