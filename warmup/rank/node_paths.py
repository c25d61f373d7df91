"""Where this node keeps things: resolved in the rank's own process, because each node may have its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs import env
from configs.schema import CacheSection
from warmup.errors import StoreError

DEFAULT_NAME = "ray-warmup"


@dataclass(frozen=True, slots=True)
class NodePaths:
    """Absolute directories of this node."""

    root: Path
    """Cache root."""
    override: Path | None
    """Replaces everything before the key's hash."""
    workspace: Path
    """FLASHINFER_WORKSPACE_BASE: importing FlashInfer fails where it cannot be created."""


def resolve_paths(cache: CacheSection) -> NodePaths:
    """From the config, else from the variables that it names, else from XDG and home."""
    root = _path(cache.root) or _path(env.read(cache.root_env, configured=True)) or _default_root()
    override = _path(cache.override_dir) or _path(env.read(cache.override_env, configured=True))
    workspace = _path(env.read("FLASHINFER_WORKSPACE_BASE")) or root / "flashinfer"
    return NodePaths(root, override, workspace)


def _default_root() -> Path:
    base = _path(env.read("XDG_CACHE_HOME"))
    return (base if base is not None else _home() / ".cache") / DEFAULT_NAME


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
    return Path(home) if home is not None else Path("~").expanduser()
