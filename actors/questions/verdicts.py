"""Read the verdicts of runs, which every run leaves beside each node's table for readers without Ray.

Verdicts are read on this node, or through Ray Client on every node that could hold a rank of the config.
`actors/questions/waiting.py` decides whether an engine may start with the table beside a verdict.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.membership import Node, ids_of
from ray_warmup.configs import WarmupConfig
from ray_warmup.configs.loader import config_of_text, text_of_config
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.disk.publish import store_error
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.store.node_paths import environments_here, resolve_paths, simulated_roots
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.verdict import StoredVerdict

logger = logging.getLogger(__name__)

NODES_S = 20.0
"""For the answers of the nodes, where they are asked."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class FoundVerdict:
    """A verdict and the place where it lies."""

    verdict: StoredVerdict
    directory: str
    node_id: str = ""
    """Node on which it lies, where several nodes were asked."""

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        document = encode(self.verdict) | {"state": self.verdict.run_state, "directory": self.directory}
        if self.node_id:
            return document | {"node_id": self.node_id}
        return document


def verdicts(config: WarmupConfig | None) -> list[FoundVerdict]:
    """Return this node's verdicts, newest first, for one config's tables or for all."""
    found = []
    for directory in _directories(config, []):
        verdict = NodeStore(directory).load_verdict()
        if verdict is not None:
            found.append(FoundVerdict(verdict, str(directory)))
    return _newest_first(found)


def unreadable(config: WarmupConfig | None) -> list[str]:
    """Return the verdict files that cannot be read on this node, which `verdicts` may lack."""
    problems: list[str] = []
    for directory in _directories(config, problems):
        try:
            NodeStore(directory).read_verdict()
        except WarmupError as error:
            problems.append(str(error))
    return problems


def verdicts_of_cluster(config: WarmupConfig | None) -> tuple[list[FoundVerdict], list[str]]:
    """Return the verdicts of the cluster's nodes, each with its `node_id`, and what could not be asked."""
    nodes, asked = list(membership.members()), None
    if config is not None:
        from ray_warmup.actors.stores.cache_commands import nodes_for

        nodes, asked = nodes_for(config, nodes), text_of_config(config)
    answers, problems = ask_each(nodes, verdicts_here, asked)
    found: list[FoundVerdict] = []
    for node_id, (verdicts_there, unread) in answers.items():
        for verdict in verdicts_there:
            found.append(replace(verdict, node_id=node_id))
        for problem in unread:
            problems.append(f"node {node_id[:8]}: {problem}")
    return _newest_first(found), problems


def verdicts_here(config: str | None) -> tuple[list[FoundVerdict], list[str]]:
    """`verdicts` and `unreadable`, as a task on a node."""
    settings = None
    if config is not None:
        settings = config_of_text(config)
    return verdicts(settings), unreadable(settings)


def ask_each(nodes: Sequence[Node], function: Callable[..., A], *arguments: Any) -> tuple[dict[str, A], list[str]]:
    """The answers of these nodes by their ids, and what went wrong."""
    from ray_warmup.actors.cluster.node_task import ask_alike

    answers, problems = ask_alike(function, ids_of(nodes), arguments, NODES_S)
    return answers, list(problems.values())


def _directories(config: WarmupConfig | None, problems: list[str]) -> Iterator[Path]:
    """Yield the selected stores.

    Directories that cannot be listed are added to `problems`.
    """
    if config is not None:
        from ray_warmup.warmup.rank.locations import locations

        for environment in environments_here(config):
            try:
                for place in locations(config, environment):
                    yield place.directory
            except StoreError as error:
                problems.append(str(error))
        return
    paths = resolve_paths(CacheSection())
    if paths.override is not None:
        yield from _stores_in((paths.override,), problems)
        return
    for root in (paths.root, *simulated_roots(paths.root)):
        for version in _children(root / "flashinfer_autotune_cache", problems):
            yield from _stores_in(_children(version, problems), problems)


def _stores_in(parents: Iterable[Path], problems: list[str]) -> Iterator[Path]:
    for parent in parents:
        for path in _children(parent, problems):
            if _SHA256.fullmatch(path.name):
                yield path


def _children(directory: Path, problems: list[str]) -> list[Path]:
    """Return the sorted subdirectories, or none if the directory is absent."""
    try:
        with os.scandir(directory) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(str(store_error("read", directory, error)))
        return []


def _newest_first(found: list[FoundVerdict]) -> list[FoundVerdict]:
    return sorted(found, key=lambda row: row.verdict.ended_at, reverse=True)
