"""Plugins of SGLang for the measurement, loaded beside this project's own through entry points.

`lacking` lets a layer start where `cutlass.cute` is not installed: it would decide by itself that it does not apply to
this model. `gate` holds a start back before its tuning, so that the GPU is free for whoever is measured.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GROUP = "sglang.srt.plugins"
GATE = "TABLE_GATE"
"""Variable that names the file for which a start waits after its dummy forward. One of SGLang's prefix would bind."""
GATE_LIMIT_S = 560.0


def lacking() -> None:
    """Let `DualGemm` not apply where what it imports is missing."""
    from ray_warmup.warmup.engines.import_hooks import when_imported

    when_imported("sglang.srt.layers.dual_gemm", lambda module: _tolerate(module.DualGemm))


def gate() -> None:
    """Wait, in a start with a gate, before this project's plugin tunes."""
    if GATE not in os.environ:
        return
    from ray_warmup.warmup.engines.import_hooks import when_imported

    when_imported("sglang.srt.model_executor.runner.base_runner", lambda module: _wait_after(module.BaseRunner))


def _tolerate(dual_gemm: Any) -> None:
    select = dual_gemm._select_mode

    @functools.wraps(select)
    def select_mode(self: Any, *args: Any, **named: Any) -> Any:
        try:
            return select(self, *args, **named)
        except ImportError:
            return None

    dual_gemm._select_mode = select_mode


def _wait_after(runner: Any) -> None:
    autotune = runner._flashinfer_autotune  # inside of the method that the project's plugin wraps

    @functools.wraps(autotune)
    def gated(self: Any, *args: Any, **named: Any) -> Any:
        result = autotune(self, *args, **named)
        deadline = time.monotonic() + GATE_LIMIT_S
        while not Path(os.environ[GATE]).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return result

    runner._flashinfer_autotune = gated


def entry_points(site: Path, ours: Mapping[str, str]) -> None:
    """Write the metadata of two installed packages: these plugins, and the project with its own."""
    packages = {
        "planted": {"gate": f"{__name__}:gate", "lacking": f"{__name__}:lacking"},
        "ray_warmup": dict(ours),
    }
    for name, entries in packages.items():
        folder = site / f"{name}-0.0.test.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.0.test\n")
        lines = [f"[{GROUP}]", *(f"{key} = {value}" for key, value in entries.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
