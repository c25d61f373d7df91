"""FlashInfer's build directory in an engine's process, and the modules that were built there."""

from __future__ import annotations

from pathlib import Path

from ray_warmup.configs import env

BELOW = Path(".cache", "flashinfer")


def workspace() -> Path:
    """Return the directory of this environment.

    Recorded modules are found beside their store instead, through FlashInfer's lookup of prebuilt ones.
    """
    base = env.read("FLASHINFER_WORKSPACE_BASE") or env.read("HOME") or "~"
    return Path(base).expanduser() / BELOW


def built_libraries(base: Path) -> dict[str, Path]:
    """Return the modules below `FLASHINFER_WORKSPACE_BASE` by name."""
    return {path.stem: path for path in (base / BELOW).glob("*/*/cached_ops/*/*.so")}
