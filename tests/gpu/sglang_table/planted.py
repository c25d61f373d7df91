"""A plugin of SGLang for the measurement, loaded beside this project's own through an entry point.

It lets a layer start where `cutlass.cute` is not installed: the layer would decide by itself that it does not apply to
this model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GROUP = "sglang.srt.plugins"


def lacking() -> None:
    """Let `DualGemm` not apply where what it imports is missing."""
    from ray_warmup.warmup.engines.plugin.import_hooks import when_imported

    when_imported("sglang.srt.layers.dual_gemm", lambda module: _tolerate(module.DualGemm))


def _tolerate(dual_gemm: Any) -> None:
    select = dual_gemm._select_mode

    @functools.wraps(select)
    def select_mode(self: Any, *args: Any, **named: Any) -> Any:
        try:
            return select(self, *args, **named)
        except ImportError:
            return None

    dual_gemm._select_mode = select_mode


def entry_points(site: Path, ours: Mapping[str, str]) -> None:
    """Write the metadata of two installed packages: this plugin, and the project with its own."""
    packages = {
        "planted": {"lacking": f"{__name__}:lacking"},
        "ray_warmup": dict(ours),
    }
    for name, entries in packages.items():
        folder = site / f"{name}-0.0.test.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.0.test\n")
        lines = [f"[{GROUP}]", *(f"{key} = {value}" for key, value in entries.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
