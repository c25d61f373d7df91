"""Decide the process-wide variables and paths by which a process finds compiled code, once per node.

A rank applies the decision to itself. `ray-warmup env` prints it for an engine's own process. The environment is passed
in as a mapping and never read here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PATH_VARIABLE = "PYTHONPATH"


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable of a process that serves from this node's caches."""

    name: str
    value: str
    why: str
    is_required: bool
    """False where the process would use the same value by itself."""


@dataclass(frozen=True, slots=True)
class ProcessEnvironment:
    """Paths of compiled code on this node, and the variables that point a process to them."""

    provider: Path | None
    """Directory for `sys.path` with FlashInfer's compiled modules; None when the artifact has none."""
    flashinfer_base: Path
    triton_cache: Path
    compute_cache: Path
    settings: tuple[Setting, ...]

    def variables(self, *, required_only: bool = False) -> dict[str, str]:
        """Name and value of each setting."""
        return {s.name: s.value for s in self.settings if s.is_required or not required_only}

    def merged(self, environ: Mapping[str, str]) -> dict[str, str]:
        """A process' environment with these settings in it."""
        return {**environ, **self.variables()}

    def shell(self) -> str:
        """`export NAME=value` lines for `eval`, quoted."""
        return "\n".join(f"export {s.name}={shlex.quote(s.value)}" for s in self.settings) + "\n"


def decide(environ: Mapping[str, str], home: Path, flashinfer_base: Path, provider: Path | None) -> ProcessEnvironment:
    """The decision for a node: what is set there wins, else each library's own default.

    `flashinfer_base` is where FlashInfer builds on this node (`warmup/store/node_paths.py`). Triton and the driver keep
    their own default directories, so a process without these variables finds their entries too. Every path is
    absolute: an engine may be started in another directory.
    """
    triton_home = Path(environ.get("TRITON_HOME") or home)
    triton_cache = Path(environ.get("TRITON_CACHE_DIR") or triton_home / ".triton" / "cache").absolute()
    compute_cache = Path(environ.get("CUDA_CACHE_PATH") or home / ".nv" / "ComputeCache").absolute()
    settings = [
        Setting("FLASHINFER_WORKSPACE_BASE", str(flashinfer_base), "where FlashInfer builds what is missing", True),
        Setting("TRITON_CACHE_DIR", str(triton_cache), "Triton's compiled kernels", False),
        Setting("CUDA_CACHE_PATH", str(compute_cache), "the driver's compiled kernels", False),
    ]
    if provider is not None:
        others = [str(Path(p).absolute()) for p in environ.get(PATH_VARIABLE, "").split(":") if p]
        paths = [str(provider), *(path for path in others if path != str(provider))]
        settings.append(Setting(PATH_VARIABLE, ":".join(paths), "FlashInfer's compiled modules", True))
    return ProcessEnvironment(provider, flashinfer_base, triton_cache, compute_cache, tuple(settings))
