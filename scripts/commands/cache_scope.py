"""A cache command, on this node or on every node of a cluster: run it, print the answer, exit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ray_warmup.actors.errors import EXIT_FAILED, EXIT_READY
from ray_warmup.configs import ConfigError
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.loader import Request, load_request, text_of_config
from ray_warmup.configs.schema import CacheSection
from ray_warmup.scripts.terminal.console import complain
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.warmup.store.node_paths import environments_here, resolve_paths

if TYPE_CHECKING:
    from ray_warmup.actors.stores.cache_commands import ClusterAnswer
    from ray_warmup.warmup.cache_admin.requests import CacheAnswer, CacheRequest


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose caches are meant: this node's or every node's, in which directories, and for whom the answer is."""

    config: str | None = None
    settings: list[str] | None = None
    root: str | None = None
    override_dir: str | None = None
    cluster: bool = False
    address: str | None = None
    timeout_s: float = 0.0
    as_json: bool = False
    """The answer is for machines."""

    def load(self) -> Request | None:
        """The config, where one was given. Raises ConfigError."""
        if self.config is None:
            if self.settings:
                raise ConfigError("--set changes a config: give --config, too")
            return None
        from ray_warmup.warmup.rank.rank_workloads import checked

        config = load_request(self.config, self.settings or [])
        if not isinstance(config, EngineRunConfig):
            config = checked(config)
        if not self.cluster and self.root is None and self.override_dir is None:
            self._refuse_simulated(config)
        return config

    def _refuse_simulated(self, config: Request) -> None:
        """Refuse a config with simulated nodes, because their caches are in other directories than this machine's."""
        here = resolve_paths(config.cache)
        for environment in environments_here(config):
            node = resolve_paths(config.cache, environment)
            if (node.root, node.override) != (here.root, here.override):
                raise ConfigError(
                    "the nodes of this config are simulated (cluster.simulated_nodes), each with a cache of its own: "
                    f"--cluster asks them all, --set cache.root={node.root} one"
                )


def answer(command: str, scope: Scope, **arguments: Any) -> NoReturn:
    """Run a command, print its answer, exit with its code. `arguments` are fields of `CacheRequest`."""
    from ray_warmup.warmup.cache_admin.command import section_of
    from ray_warmup.warmup.cache_admin.requests import CacheRequest
    from ray_warmup.warmup.rank.forecast import check_rank

    config = scope.load()
    asked = CacheRequest(
        cache=CacheSection() if config is None else config.cache,
        root=_absolute(scope.root),
        override_dir=_absolute(scope.override_dir),
        config=None if config is None else text_of_config(config),
        **arguments,
    )
    section_of(asked)  # a directory that no node could use is refused before any is asked
    if isinstance(config, EngineRunConfig):
        _refuse_what_tables_alone_have(command, asked)
    elif config is not None:
        check_rank(config, asked.rank)
    said = _everywhere(command, asked, scope, config) if scope.cluster else _here(command, asked)
    _show(said, scope.as_json)
    raise typer.Exit(EXIT_READY if said.ok else EXIT_FAILED)


def _refuse_what_tables_alone_have(command: str, asked: CacheRequest) -> None:
    """Raises ConfigError for a command or an option that only tables have."""
    if command in ("retime", "quarantine ls", "quarantine clear"):
        raise ConfigError(f"{command}: a real engine's artifact has no tactics; give a config of the built-in engine")
    if asked.rank is not None:
        raise ConfigError("--rank: ranks of a real engine share one artifact; leave it out")


def _absolute(directory: str | None) -> str | None:
    """Make a directory absolute for this shell.

    A leading `~` stays for each node to expand.
    """
    if not directory or directory.startswith("~"):
        return directory
    return os.path.abspath(directory)


def _here(command: str, asked: CacheRequest) -> CacheAnswer:
    from ray_warmup.warmup.cache_admin.command import perform

    return perform(command, asked)


def _everywhere(command: str, asked: CacheRequest, scope: Scope, config: Request | None) -> ClusterAnswer:
    """Run a command on the cluster of --address or of the config.

    Its simulated nodes are started for the command.
    """
    if command == "retime":
        raise ConfigError("--retime measures on the device of one node: run it there, without --cluster")
    from ray_warmup.actors.connection.of_questions import attached
    from ray_warmup.actors.connection.of_runs import connected
    from ray_warmup.actors.errors import ClusterError

    # --address wins over the config's cluster, and a config may name no cluster at all.
    if config is not None and scope.address is None and (config.cluster.address or config.cluster.simulated_nodes):
        with connected(config):
            return _on_cluster(command, asked, scope, config)
    with attached(scope.address) as found:
        if not found:
            raise ClusterError(
                "--cluster: no Ray cluster was found; give --address, RAY_ADDRESS, or --config with cluster.address"
            )
        return _on_cluster(command, asked, scope, config)


def _on_cluster(command: str, asked: CacheRequest, scope: Scope, config: Request | None) -> ClusterAnswer:
    from ray_warmup.actors.stores.cache_commands import perform_everywhere

    return perform_everywhere(command, asked, scope.timeout_s, config)


def _show(said: CacheAnswer | ClusterAnswer, as_json: bool) -> None:
    if as_json:
        print_document(said.to_json())
        return
    from ray_warmup.scripts.views.cache import show_answer, show_nodes
    from ray_warmup.warmup.cache_admin.requests import CacheAnswer

    if not isinstance(said, CacheAnswer):
        show_nodes(said)
    elif not said.error:
        show_answer(said)
    if said.error:
        complain(said.error)
