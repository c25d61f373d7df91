"""`ray-warmup env`: the variables by which an engine's own process finds what was compiled on this node.

eval "$(ray-warmup env --config my.yaml)"
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from ray_warmup.configs import ConfigError, WarmupConfig, env
from ray_warmup.scripts.documents import print_document
from ray_warmup.scripts.terminal import complain
from ray_warmup.warmup.artifact.manifest import TABLE_NAME
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.caches.environment import ProcessEnvironment, decide
from ray_warmup.warmup.caches.installed import provider_directory
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.rank.forecast import check_rank
from ray_warmup.warmup.rank.locations import Location, location_of
from ray_warmup.warmup.rank.node_paths import environments_here, home_environment, resolve_paths
from ray_warmup.warmup.rank.standing import Standing, standing_of
from ray_warmup.warmup.store.node_store import NodeStore

FALSE = "false"
"""For a shell that evaluates the output: `eval` fails with it, which it does not with nothing."""


def environment_of(config: WarmupConfig, rank: int | None, node: int | None = None) -> tuple[ProcessEnvironment, Path]:
    """The environment for one class on this node (or on a simulated one), and the path of its table.

    The class is a rank's, else that of the node's own ranks. Raises ConfigError where the config simulates several
    nodes and none is named, or has no such rank.
    """
    here, place = _place(config, rank, node)
    paths = resolve_paths(config.cache, here)
    environ = env.snapshot() | here | home_environment(paths)
    provider = _provider(place.directory)
    home = Path(environ.get("HOME") or "/")
    environment = decide(environ, home, paths.workspace, provider)
    return environment, place.directory / TABLE_NAME


def show_environment(
    config: WarmupConfig, rank: int | None, node: int | None, *, as_json: bool, check: bool = False
) -> int:
    """Print `export` lines for a shell, or every setting with its reason as JSON; 1 where `check` finds no table.

    The shell is then given a `false` instead, so that `eval` fails, too.
    """
    standing = standing_of(config, _place(config, rank, node)[1])  # puts back a table that is not the committed one
    environment, table_path = environment_of(config, rank, node)
    is_ready = standing.answer == "ready"
    if as_json:
        settings = [asdict(setting) for setting in environment.settings]
        print_document({"table": str(table_path), "is_ready": is_ready, "settings": settings})
    elif check and not is_ready:
        typer.echo(FALSE)
    else:
        typer.echo(environment.shell(), nl=False)
    return _refused(standing) if check and not is_ready else 0


def show_paths(config: WarmupConfig, rank: int | None, node: int | None, *, check: bool) -> int:
    """Print where the table lies on each node that is meant; 1 where `check` finds that one does not."""
    check_rank(config, rank)
    code = 0
    for environment in environments_here(config, node):
        place = location_of(config, environment, rank)
        standing = standing_of(config, place)
        typer.echo(place.directory / TABLE_NAME)
        if check and standing.answer != "ready":
            code = _refused(standing)
    return code


def _place(config: WarmupConfig, rank: int | None, node: int | None) -> tuple[dict[str, str], Location]:
    """The one node that is meant, by what it has beside this process' environment, and the class there."""
    check_rank(config, rank)
    nodes = environments_here(config, node)
    if len(nodes) > 1:
        raise ConfigError(f"--node: the config simulates {len(nodes)} nodes: say which one the engine stands on")
    return nodes[0], location_of(config, nodes[0], rank)


def _refused(standing: Standing) -> int:
    complain(standing.text)
    return 1


def _provider(store_directory: Path) -> Path | None:
    """The installed modules of the store's current artifact; None where there are none."""
    try:
        _, manifest = NodeStore(store_directory).current()
    except (FileNotFoundError, WarmupError):
        return None
    provider = provider_directory(store_directory, manifest.module_set)
    return provider if flashinfer_modules.is_installed(provider) else None
