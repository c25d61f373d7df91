"""`ray-warmup env`: the variables by which an engine's own process finds what was compiled on this node.

eval "$(ray-warmup env --config my.yaml)"
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from ray_warmup.configs import ConfigError, WarmupConfig, env
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.caches.environment import ProcessEnvironment, decide
from ray_warmup.warmup.caches.installed import provider_directory
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.rank.forecast import check_rank, forecast_rank
from ray_warmup.warmup.rank.node_paths import environments_here, home_environment, resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore


def environment_of(config: WarmupConfig, rank: int, node: int | None = None) -> tuple[ProcessEnvironment, Path]:
    """The environment for one rank's class on this node (or on a simulated one), and the path of its table.

    Raises ConfigError where the config simulates several nodes and none is named, or has no such rank.
    """
    check_rank(config, rank)
    nodes = environments_here(config, node)
    if len(nodes) > 1:
        raise ConfigError(f"--node: the config simulates {len(nodes)} nodes: say which one the engine stands on")
    table_path = forecast_rank(config, rank, environment=nodes[0]).table_path
    paths = resolve_paths(config.cache, nodes[0])
    environ = env.snapshot() | nodes[0] | home_environment(paths)
    provider = _provider(table_path.parent)
    home = Path(environ.get("HOME") or "/")
    return decide(environ, home, paths.workspace, provider), table_path


def show_environment(config: WarmupConfig, rank: int, node: int | None, *, as_json: bool) -> int:
    """Print `export` lines for a shell, or every setting with its reason as JSON; always exit code 0."""
    environment, table_path = environment_of(config, rank, node)
    if as_json:
        settings = [asdict(setting) for setting in environment.settings]
        typer.echo(json.dumps({"table": str(table_path), "settings": settings}, indent=2))
    else:
        typer.echo(environment.shell(), nl=False)
    return 0


def _provider(store_directory: Path) -> Path | None:
    """The installed modules of the store's current artifact; None where there are none."""
    try:
        _, manifest = NodeStore(store_directory).current()
    except (FileNotFoundError, WarmupError):
        return None
    provider = provider_directory(store_directory, manifest.module_set)
    return provider if flashinfer_modules.is_installed(provider) else None
