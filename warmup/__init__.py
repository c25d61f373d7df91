"""What one process does on one device: describe itself, tune, guard, pack, install, load, replay.

Nothing here imports Ray. `warmup.apply` is the entry for serving engines; everything else is imported
from its own module, and importing this package alone imports neither torch nor FlashInfer.
"""

from __future__ import annotations

from typing import Any

__all__ = ["apply"]


def __getattr__(name: str) -> Any:
    """Import `apply` when it is first asked for."""
    if name == "apply":
        from warmup.apply_table import apply

        return apply
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
