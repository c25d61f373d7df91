"""`ray-warmup sync`: every node of a cluster gets the artifacts that some node has, without a run and without a GPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.node_task import ask_nodes
from ray_warmup.actors.cluster.transfer import buffer
from ray_warmup.actors.registry.client import tell_registry
from ray_warmup.actors.stores.artifacts import artifacts_here, pack_stored
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.cache_admin.command import perform
from ray_warmup.warmup.cache_admin.requests import CacheAnswer, CacheRequest
from ray_warmup.warmup.registry.values import ArtifactFacts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Synced:
    """Result for one key."""

    key_sha256: str
    artifact: str
    bytes: int
    given_to: tuple[str, ...]
    """Ids of the nodes that got it."""
    had_it: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SyncReport:
    """Result for a cluster."""

    keys: tuple[Synced, ...]
    problems: tuple[str, ...]
    """Nodes that did not say what they hold."""

    @property
    def is_well(self) -> bool:
        """Return True if every node has every artifact."""
        return not self.problems and not any(row.problems for row in self.keys)


def sync(cache: CacheSection, limit_s: float, key: str = "") -> SyncReport:
    """Give every node of the connected cluster the newest guarded table, or engine's artifact, of each key.

    A node without CPUs and GPUs, as many heads are, can run nothing and gets nothing.
    Bytes travel once to each node that lacks them, and a registry that runs learns who holds them now. A newer or
    better checked table of a node is never replaced.

    Args:
        cache: the configuration's section; what it leaves open each node resolves for itself.
        limit_s: seconds for each step on a node.
        key: first digits of the keys that are meant.
    """
    section = cache.model_dump_json()
    workers = [node for node in membership.members() if node.total.get("CPU") or node.total.get("GPU")]
    held, problems = ask_nodes(artifacts_here, {node.node_id: (section,) for node in workers}, limit_s)
    done = []
    for newest in _newest(held, key):
        had = tuple(node_id for node_id, rows in held.items() if newest.digest in {row.digest for row in rows})
        cold = tuple(node_id for node_id in held if node_id not in had)
        done.append(_give(cache, newest, had, cold, limit_s))
    if any(row.given_to for row in done):
        tell_registry(cache)
    return SyncReport(tuple(done), tuple(problems.values()))


def _newest(held: Mapping[str, Sequence[ArtifactFacts]], key: str) -> list[ArtifactFacts]:
    """Return the newest artifact of each key that begins so."""
    found: dict[str, ArtifactFacts] = {}
    for rows in held.values():
        for row in rows:
            known = found.get(row.key_sha256)
            if row.is_proven and row.key_sha256.startswith(key) and (known is None or row.age_order > known.age_order):
                found[row.key_sha256] = row
    return [found[name] for name in sorted(found)]


def _give(
    cache: CacheSection, newest: ArtifactFacts, had: tuple[str, ...], cold: tuple[str, ...], limit_s: float
) -> Synced:
    section = cache.model_dump_json()
    if not cold:
        return Synced(newest.key_sha256, newest.digest, 0, (), had)
    data = None
    for node_id in had:
        data = pack_stored(section, newest, node_id, limit_s)
        if data is not None:
            break
    if data is None:
        return Synced(newest.key_sha256, newest.digest, 0, (), had, ("no node could pack it any more",))
    sent = ray.put(buffer(data))
    asked = CacheRequest(cache=cache, by="sync")
    answers, lost = ask_nodes(_receive, {node_id: (asked, [sent]) for node_id in cold}, limit_s)
    refused = [f"node {node_id[:8]}: {answer.error}" for node_id, answer in answers.items() if answer.error]
    given = tuple(node_id for node_id, answer in answers.items() if not answer.error)
    return Synced(newest.key_sha256, newest.digest, len(data), given, had, (*refused, *lost.values()))


def _receive(asked: CacheRequest, sent: list[Any]) -> CacheAnswer:
    """Import an archive on a node. Runs as a task there."""
    return perform("import", replace(asked, data=memoryview(ray.get(sent[0]))))
