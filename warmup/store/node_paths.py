"""Resolve a node's directories in the rank's own process, because nodes may differ.

A node that is simulated on this machine has an environment of its own, made here, so that whoever looks for its
files without being one of its processes finds the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.errors import ConfigError, shown
from ray_warmup.configs.location import location_fault
from ray_warmup.configs.schema import CacheSection, WarmupConfig
from ray_warmup.warmup.errors import StoreError

DEFAULT_NAME = "ray-warmup"
SIMULATED = "simulated"
ENGINE_CACHES = "engine_caches"
"""Directory below the cache root for what real engines compile: stores, requests, placed entries."""


@dataclass(frozen=True, slots=True)
class NodePaths:
    """Absolute directories of this node."""

    root: Path
    """Cache root."""
    override: Path | None
    """Replaces everything before the key's hash."""
    workspace: Path
    """FLASHINFER_WORKSPACE_BASE: importing FlashInfer fails where it cannot be created."""


def resolve_paths(cache: CacheSection, environment: Mapping[str, str] | None = None) -> NodePaths:
    """Resolve directories from the config, else from the variables that it names, else from XDG and home.

    `environment` is what another node on this machine has beside this process' own variables.
    """
    own = environment or {}
    root = _path(cache.root) or _path(_location(cache.root_env, own)) or _default_root()
    override = _path(cache.override_dir) or _path(_location(cache.override_env, own))
    if (fault := location_fault(str(root))) is not None:
        raise ConfigError(f"cache.root: {shown(str(root))} (from XDG_CACHE_HOME or the home directory): {fault}")
    workspace = _path(_variable("FLASHINFER_WORKSPACE_BASE", own)) or root / "flashinfer"
    return NodePaths(root, override, workspace)


def flashinfer_environment(paths: NodePaths) -> dict[str, str]:
    """Return the environment variables that a process needs before it imports FlashInfer."""
    return {"FLASHINFER_WORKSPACE_BASE": str(paths.workspace), **home_environment(paths)}


def home_environment(paths: NodePaths) -> dict[str, str]:
    """A HOME for a user who has none: FlashInfer asks for one at import, whatever its workspace is."""
    try:
        _home()
    except ConfigError:
        # Any writable directory serves, and the cache root is one.
        return {"HOME": str(paths.root)}
    return {}


def num_simulated(config: WarmupConfig | EngineRunConfig) -> int:
    """Return the number of nodes that a run would simulate on this machine, 0 if it goes to a cluster."""
    goes_elsewhere = config.cluster.address or env.read("RAY_ADDRESS")
    if goes_elsewhere:
        return 0
    return config.cluster.simulated_nodes


def simulated_environment(cache: CacheSection, index: int) -> dict[str, str]:
    """The variables by which one simulated node gets directories of its own, as a real node would have."""
    home = resolve_paths(cache).root / SIMULATED / f"node-{index}"
    return {
        cache.root_env: str(home),
        "FLASHINFER_WORKSPACE_BASE": str(home / "flashinfer"),
        "TRITON_CACHE_DIR": str(home / "triton"),
    }


def simulated_roots(root: Path) -> tuple[Path, ...]:
    """The cache roots of nodes that were ever simulated below this one."""
    return tuple(sorted((root / SIMULATED).glob("node-*")))


def environments_here(config: WarmupConfig | EngineRunConfig, node: int | None = None) -> tuple[dict[str, str], ...]:
    """Return the environments of a run's nodes on this machine: one empty one, or those of simulated nodes.

    Raises ConfigError for a `node` that the config does not simulate.
    """
    count = num_simulated(config)
    if node is not None and node >= count:
        numbers = "it simulates no nodes (cluster.simulated_nodes)"
        if count:
            numbers = f"it simulates nodes 0 to {count - 1}"
        raise ConfigError(f"--node: {node}: {numbers}")
    if not count:
        return ({},)
    wanted = range(count) if node is None else (node,)
    return tuple(simulated_environment(config.cache, index) for index in wanted)


def _variable(name: str, own: Mapping[str, str]) -> str | None:
    return own.get(name) or env.read(name, configured=True)


def _location(name: str, own: Mapping[str, str]) -> str | None:
    """A variable's directory. Raises ConfigError for one that every process would find elsewhere."""
    text = _variable(name, own)
    if text is not None and (fault := location_fault(text)) is not None:
        raise ConfigError(f"{name}: {shown(text)}: {fault}")
    return text


def _default_root() -> Path:
    base = env.read("XDG_CACHE_HOME")
    if base is not None and base.startswith("/"):  # its specification: a relative one is ignored
        return Path(base) / DEFAULT_NAME
    return (_home() / ".cache" / DEFAULT_NAME).absolute()


def _path(text: str | None) -> Path | None:
    if not text:
        return None
    path = Path(text)
    if path.parts[0] == "~":
        return _home().joinpath(*path.parts[1:]).absolute()
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise StoreError(f"{text}: {error}; change cache.root or cache.override_dir", path=text) from error


def _home() -> Path:
    home = env.read("HOME")
    if home is not None:
        return Path(home)
    try:
        return Path("~").expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"there is no home directory: HOME is not set, and user {os.geteuid()} has no name on this machine; set "
            "cache.root, RAY_WARMUP_CACHE_ROOT, XDG_CACHE_HOME or HOME"
        ) from error
