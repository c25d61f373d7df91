"""`ray-warmup env`: the variables by which an engine's own process finds what was compiled on this node.

eval "$(ray-warmup env --config my.yaml)"
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import typer

from ray_warmup.configs import ConfigError, WarmupConfig, env
from ray_warmup.scripts.terminal.console import complain, plain
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.scripts.terminal.shell_command import REFUSAL
from ray_warmup.warmup.artifact.manifest import TABLE_NAME
from ray_warmup.warmup.caches.artifact_install import provider_directory
from ray_warmup.warmup.caches.environment import ProcessEnvironment, Setting, decide
from ray_warmup.warmup.caches.provider import is_installed, private_copy, refusal
from ray_warmup.warmup.caches.workspace import COPIES, Workspace, find_workspace
from ray_warmup.warmup.disk.writable import why_not_writable
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.rank.forecast import check_rank
from ray_warmup.warmup.rank.locations import Location, location_of
from ray_warmup.warmup.rank.table_state import TableState, table_state_of
from ray_warmup.warmup.signing.policy import check as check_signature
from ray_warmup.warmup.store.node_paths import environments_here, home_environment, resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """The environment for an engine's process, with notes on missing parts."""

    process: ProcessEnvironment
    table: Path
    notes: tuple[str, ...]
    is_usable: bool
    """False: FlashInfer cannot be imported with it."""


def environment_of(config: WarmupConfig, rank: int | None, node: int | None = None) -> EngineEnvironment:
    """The environment for one class on this node (or on a simulated one), tried by this user.

    The class is a rank's, else that of the node's own ranks. Raises ConfigError where the config simulates several
    nodes and none is named, or has no such rank.
    """
    here, place = _place(config, rank, node)
    paths = resolve_paths(config.cache, here)
    environ = env.snapshot() | here | home_environment(paths)
    home = Path(environ.get("HOME") or "/")
    workspace = find_workspace(paths.workspace, environ, home)
    provider, refused = _provider(place.directory, workspace)
    process = decide(environ, home, workspace.base, provider)
    process = replace(process, settings=(*process.settings, *_trust(config)))
    notes = (*workspace.refused, *refused, *_unwritable(process))
    return EngineEnvironment(process, place.directory / TABLE_NAME, notes, workspace.is_usable)


def show_environment(
    config: WarmupConfig, rank: int | None, node: int | None, *, as_json: bool, check: bool = False
) -> int:
    """Print `export` lines for a shell, or every setting with its reason as JSON.

    1 where `check` finds no table or FlashInfer has no workspace: the shell is given a `false`, so that `eval` fails,
    too. What could not be had is said in comments, and in JSON as `notes`.
    """
    table_state = table_state_of(
        config, _place(config, rank, node)[1]
    )  # puts back a table that is not the committed one
    found = environment_of(config, rank, node)
    is_ready = table_state.answer == "ready"
    if as_json:
        settings = [asdict(setting) for setting in found.process.settings]
        document = {"table": str(found.table), "is_ready": is_ready, "notes": list(found.notes)}
        print_document({**document, "settings": settings})
    elif check and not is_ready:
        typer.echo(REFUSAL)
    else:
        _print_shell(found)
    if check and not is_ready:
        return _refused(table_state)
    if found.is_usable:
        return 0
    return 1


def _print_shell(found: EngineEnvironment) -> None:
    for note in found.notes:
        typer.echo("# " + plain(note))
    typer.echo(found.process.shell(), nl=False)
    if not found.is_usable:
        typer.echo(f"{REFUSAL}  # no workspace for FlashInfer that this user can write: set FLASHINFER_WORKSPACE_BASE")


def show_paths(config: WarmupConfig, rank: int | None, node: int | None, *, check: bool) -> int:
    """Print the table's path on each selected node.

    Returns 1 if `check` is set and a table is not ready.
    """
    check_rank(config, rank)
    code = 0
    for environment in environments_here(config, node):
        place = location_of(config, environment, rank)
        table_state = table_state_of(config, place)
        typer.echo(place.directory / TABLE_NAME)
        if check and table_state.answer != "ready":
            code = _refused(table_state)
    return code


def _place(config: WarmupConfig, rank: int | None, node: int | None) -> tuple[dict[str, str], Location]:
    """The one node that is meant, by what it has beside this process' environment, and the class there."""
    check_rank(config, rank)
    nodes = environments_here(config, node)
    if len(nodes) > 1:
        raise ConfigError(f"--node: the config simulates {len(nodes)} nodes: say which one the engine stands on")
    return nodes[0], location_of(config, nodes[0], rank)


def _refused(table_state: TableState) -> int:
    complain(table_state.text)
    return 1


def _provider(store_directory: Path, workspace: Workspace) -> tuple[Path | None, tuple[str, ...]]:
    """Return the installed modules of the store's current artifact, or the reason for refusing to load them.

    Where this user can leave no lease, a prune elsewhere would not see the engine: it gets a copy of its own.
    """
    try:
        _, manifest = NodeStore(store_directory).current()
        check_signature(manifest.statement, manifest.signature)
        provider = provider_directory(store_directory, manifest.module_set)
        if not is_installed(provider):
            return None, ()
        why = refusal(provider, manifest.module_set)
        unheld = None
        if why is None:
            unheld = why_not_writable(store_directory / "leases")
        if unheld is not None and workspace.is_usable:
            copy = private_copy(provider, workspace.base / COPIES, manifest.module_set)
            return copy, (f"compiled modules are a copy, because none can be held in the store: {unheld}",)
    except FileNotFoundError:
        return None, ()
    except (OSError, WarmupError) as error:
        why = str(error)
    if why is None:
        return (provider, ())
    return (None, (f"compiled modules are not used: {why}",))


def _unwritable(process: ProcessEnvironment) -> tuple[str, ...]:
    """Caches of other libraries, whose place this command does not choose."""
    places = (("TRITON_CACHE_DIR", process.triton_cache), ("CUDA_CACHE_PATH", process.compute_cache))
    problems = []
    for name, path in places:
        why = why_not_writable(path)
        if why is not None:
            problems.append(f"{name}: new kernels cannot be kept there: {why}")
    return tuple(problems)


def _trust(config: WarmupConfig) -> tuple[Setting, ...]:
    """An engine has no config: it is told whom that believes."""
    cache, why = config.cache, "whose files `ray_warmup.apply` believes"
    named = (("RAY_WARMUP_TRUSTED_UIDS", cache.trusted_uids), ("RAY_WARMUP_TRUSTED_GIDS", cache.trusted_gids))
    settings = [Setting(name, ",".join(map(str, ids)), why, True) for name, ids in named if ids]
    if cache.trust == "signed":
        settings.append(Setting("RAY_WARMUP_TRUST", "signed", "unsigned artifacts are refused", True))
        keys = ",".join(cache.public_keys)
        settings.append(Setting("RAY_WARMUP_PUBLIC_KEYS", keys, "whose signatures are believed", True))
    return tuple(settings)
