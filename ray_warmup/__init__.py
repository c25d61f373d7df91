"""Warm up the kernels of serving engines once per cluster: the public API and the root of every import.

`apply` and `monitor` are for an engine's process and need neither Ray nor the command line. `run_warmup` warms a
cluster up, `ensure_warm` a process that joins one, and `attach` actors that exist already. These need Ray. Importing
this package alone imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_warmup.actors.cluster.metrics_export import export_metrics
    from ray_warmup.actors.driver.warmup_run import run_warmup
    from ray_warmup.actors.joining.attaching import attach
    from ray_warmup.actors.joining.warm_joiner import ensure_warm
    from ray_warmup.warmup.apply_table import apply
    from ray_warmup.warmup.monitor.serving_monitor import monitor

__all__ = ["apply", "attach", "ensure_warm", "export_metrics", "monitor", "run_warmup"]

_MODULE_OF = {
    "apply": "ray_warmup.warmup.apply_table",
    "attach": "ray_warmup.actors.joining.attaching",
    "ensure_warm": "ray_warmup.actors.joining.warm_joiner",
    "export_metrics": "ray_warmup.actors.cluster.metrics_export",
    "monitor": "ray_warmup.warmup.monitor.serving_monitor",
    "run_warmup": "ray_warmup.actors.driver.warmup_run",
}


def __getattr__(name: str) -> Any:
    """Import an entry when it is first asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULE_OF[name]), name)
