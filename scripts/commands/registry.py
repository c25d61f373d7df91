"""`ray-warmup registry` and `ray-warmup sync`: start and show the cluster's registry, and warm nodes without a run.

Exit codes: 0 done, 1 there is no registry or a node did not answer, 2 wrong usage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ray_warmup.actors.errors import EXIT_FAILED
from ray_warmup.scripts.terminal.console import add_row, complain, say, table_of, wide_console
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.scripts.terminal.endings import GuardedGroup
from ray_warmup.scripts.views.cache import size

if TYPE_CHECKING:
    from ray_warmup.actors.joining.syncing import SyncReport
    from ray_warmup.configs.schema import CacheSection
    from ray_warmup.warmup.registry.values import KeyStatus

app = typer.Typer(
    name="registry",
    cls=GuardedGroup,
    help="Start, show or stop the cluster's registry, which hands artifacts to processes that join.",
    epilog="Exit codes: 0 done, 1 there is none, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
)

Config = Annotated[str | None, typer.Option("--config", "-c", help="Config whose cache section is meant.")]
Address = Annotated[str | None, typer.Option(help="Ray address. Default: $RAY_ADDRESS, else this machine's cluster.")]
Namespace = Annotated[
    str | None, typer.Option(help="Ray namespace of the registry. Default: $RAY_WARMUP_NAMESPACE, else ray_warmup.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def start(config: Config = None, address: Address = None) -> None:
    """Start the registry, or leave the one that runs. Engines of the cluster ask it when they start."""
    from ray_warmup.actors.registry.client import start_registry

    cache = _cache_of(config)
    with on_cluster(address):
        started = start_registry(cache)
    console = wide_console()
    for note in started.notes:
        say(console, note)
    say(console, f"the registry runs and knows {started.keys} keys")


@app.command()
def status(address: Address = None, namespace: Namespace = None, as_json: Json = False) -> None:
    """List the artifacts that the registry knows, and who makes one now. Exit 1 without a registry."""
    from ray_warmup.actors.registry.client import registry_status
    from ray_warmup.configs.schema import CacheSection

    cache = CacheSection(namespace=namespace)
    with on_cluster(address):
        found = registry_status(cache)
        if found is None:
            complain(_absence(cache, "; `ray-warmup registry start` or a call of ensure_warm starts one"))
            raise typer.Exit(EXIT_FAILED)
    if as_json:
        print_document(asdict(found))
        return
    _show_status(found.keys)
    if found.note:
        say(wide_console(), found.note)
    say(wide_console(), f"registry: {found.age_s:.0f} s old, {size(found.bytes)} in memory")


@app.command()
def stop(address: Address = None, namespace: Namespace = None) -> None:
    """End the registry. Processes that join later start a new one."""
    from ray_warmup.actors.registry.client import stop_registry
    from ray_warmup.configs.schema import CacheSection

    cache = CacheSection(namespace=namespace)
    with on_cluster(address):
        if not stop_registry(cache):
            complain(_absence(cache))
            raise typer.Exit(EXIT_FAILED)
    say(wide_console(), "the registry is stopped; what it knew lies on the nodes")


def sync_command(
    config: Config = None,
    key: Annotated[str, typer.Option(help="First digits of the keys that are meant. Default: all.")] = "",
    address: Address = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for each step on a node.")] = 120.0,
    as_json: Json = False,
) -> None:
    """Give every node of a cluster what some node has, without a run: guarded tables and artifacts of engines.

    No GPU is needed. `ray-warmup wait` exits 0 there afterwards.
    """
    from ray_warmup.actors.joining.syncing import sync

    cache = _cache_of(config)
    with on_cluster(address):
        report = sync(cache, timeout, key)
    if as_json:
        print_document({"ok": report.is_well, **asdict(report)})
    else:
        _show_sync(report)
    if not report.is_well:
        raise typer.Exit(EXIT_FAILED)


def _absence(cache: CacheSection, remedy: str = "") -> str:
    """Say that no registry answers, and name those that this command does not mean."""
    from ray_warmup.actors.registry.client import namespace_of, other_registries
    from ray_warmup.configs.version import VERSION

    others = other_registries(cache)
    if not others:
        return f"no registry runs in this cluster{remedy}"
    meant = f"of version {VERSION} in namespace {namespace_of(cache)}"
    return f"no registry {meant} runs in this cluster, but {', '.join(others)} (--namespace names another one){remedy}"


def _cache_of(config: str | None) -> CacheSection:
    from ray_warmup.configs.loader import load_request
    from ray_warmup.configs.schema import CacheSection

    return CacheSection() if config is None else load_request(config).cache


@contextmanager
def on_cluster(address: str | None) -> Iterator[None]:
    """Connect to the cluster that is meant. Raises ClusterError if there is none."""
    from ray_warmup.actors.connection.of_questions import attached
    from ray_warmup.actors.errors import ClusterError

    with attached(address) as found:
        if not found:
            raise ClusterError("no Ray cluster was found; give --address or RAY_ADDRESS")
        yield


def _show_status(keys: Sequence[KeyStatus]) -> None:
    table = table_of("key", "for", "artifact", "nodes", "size", "in memory", "made now by", whole=("key",))
    for row in keys:
        leader = f"{row.leader}, {row.for_s:.0f} s {row.progress}" if row.leader else ""
        held = ", ".join(node_id[:8] for node_id in row.nodes)
        if row.digest and not held and not row.is_in_memory:
            held = "remote store"
        memory = "yes" if row.is_in_memory else ""
        bytes_there = size(row.bytes) if row.bytes else ""
        made_for = row.engine or "tables"
        add_row(table, row.key_sha256[:12], made_for, row.digest[:12], held, bytes_there, memory, leader)
    console = wide_console()
    console.print(table)
    for row in keys:
        if row.unproven:
            where = ", ".join(node_id[:8] for node_id in row.unproven)
            say(console, f"{row.key_sha256[:12]}: an engine left what it compiled on {where}; a run proves it")


def _show_sync(report: SyncReport) -> None:
    console = wide_console()
    if not report.keys:
        say(console, "no node has a guarded table or an engine's artifact")
    for row in report.keys:
        given = ", ".join(node_id[:8] for node_id in row.given_to) or "nobody, all had it"
        say(console, f"key {row.key_sha256[:12]}, artifact {row.artifact[:12]}: given to {given}")
        for problem in row.problems:
            say(console, f"key {row.key_sha256[:12]}: {problem}")
    for problem in report.problems:
        say(console, problem)
