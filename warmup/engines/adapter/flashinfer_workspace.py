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


def built_libraries_here() -> dict[str, Path]:
    """Return the modules that were built in this environment's directory, by name."""
    return _libraries(workspace())


def built_libraries(base: Path) -> dict[str, Path]:
    """Return the modules below `FLASHINFER_WORKSPACE_BASE` by name."""
    return _libraries(base / BELOW)


def _libraries(directory: Path) -> dict[str, Path]:
    return {path.stem: path for path in directory.glob("*/*/cached_ops/*/*.so")}
