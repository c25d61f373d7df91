"""What one process does on one device: describe itself, tune, guard, pack, install, load, replay.

Nothing here imports Ray. `warmup.apply` and `warmup.monitor` are the entries for serving engines; everything else
is imported from its own module, and importing this package alone imports neither torch nor FlashInfer.
"""

from __future__ import annotations

from typing import Any

__all__ = ["apply", "monitor"]


def __getattr__(name: str) -> Any:
    """Import an entry when it is first asked for."""
    if name == "apply":
        from warmup.apply_table import apply

        return apply
    if name == "monitor":
        from warmup.serving_monitor import monitor

        return monitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
