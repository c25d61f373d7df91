"""Look beyond a node's store for an engine's artifact: in the registry of its cluster, then in a remote store.

Nothing here imports Ray. `actors/registry/engine_cluster.py` implements `Cluster`, and is imported only in a process
that is connected to Ray already. One process of each engine asks on a node, and the others look once more into the
node's store when it has asked. Every question has a limit, and what fails is a reason, never an exception.
"""

from __future__ import annotations

import importlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ray_warmup.configs import env
from ray_warmup.configs.errors import shown
from ray_warmup.configs.remote_url import url_fault
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.manifest import Manifest, key_digest
from ray_warmup.warmup.disk.shared_lock import shared_lock
from ray_warmup.warmup.engines.artifacts.engine_store import is_unproven, note_received
from ray_warmup.warmup.engines.plugin.ray_connection import is_connected
from ray_warmup.warmup.remote.remote_cache import RemoteCache
from ray_warmup.warmup.store.node_paths import ENGINE_CACHES
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.time_limit import within

logger = logging.getLogger(__name__)

CLUSTER = "ray_warmup.actors.registry.engine_cluster"
FOLDER = "asked"
REACH_S = 10.0
"""For the registry's first answer."""
FETCH_S = 60.0
"""For an artifact's bytes from the registry."""
ASKED_FOR_S = 600.0
"""So long one process has asked for all of its engine. One that starts later may have the name of an earlier one."""
LONGEST_WAIT_S = 24 * 3600.0

Parts = tuple[tuple[str, str], ...]


class Cluster(Protocol):
    """The cluster that this process is connected to."""

    def fetch(self, store: NodeStore, identity: Parts, wait_s: float) -> str:
        """Publish the registry's artifact of an identity into a node's store.

        Args:
            store: of the identity on this node.
            identity: named parts in order.
            wait_s: seconds to wait for a process that makes the artifact now.

        Returns:
            The reason for a miss, or an empty text.
        """

    def wants_offers(self) -> bool:
        """Return True if there is a registry, which would be told of an unproven artifact."""

    def offer(self, manifest: Manifest) -> None:
        """Tell the registry of an artifact that this node's store holds and nobody has proven."""


@dataclass(frozen=True, slots=True)
class AskingEngine:
    """An engine that looks for its artifact."""

    identity: Parts
    name: str
    """Equal in all processes of one engine, and in no other engine."""


def bring(root: Path, store: NodeStore, start: AskingEngine) -> str:
    """Look beyond this node for the artifact of a start, and publish what is found into the node's store.

    Asks once for each engine and node. The others wait for that, and find what it brought.

    Args:
        root: this node's cache root.
        store: of the identity; empty, or holding what is not used.
        start: the engine that starts.

    Returns:
        Reasons for a miss, or an empty text.
    """
    wait_s = seconds_to_wait()
    began = time.monotonic()
    # A lock for each patience: who waits for a moment, or not at all, must not stand behind who waits for long.
    patience = f"waits-{wait_s:g}" if wait_s else "asks"
    lock = root / ENGINE_CACHES / FOLDER / f"{key_digest(start.identity)}.{patience}.lock"
    with shared_lock(lock, wait_s=wait_s + REACH_S + FETCH_S) as is_held:
        asked = _asked_lately(lock) if is_held else {}
        if start.name in asked:
            return ""
        if _is_there(store, start.identity):  # another engine of this node has brought it meanwhile
            return ""
        # Standing behind another engine counts as waiting.
        reason = _ask(store, start.identity, max(0.0, wait_s - (time.monotonic() - began)))
        if is_held:
            rows = {**asked, start.name: time.time()}
            lock.write_text("".join(f"{at:.0f} {name}\n" for name, at in rows.items()), encoding="utf-8")
        return reason


def is_offer_wanted() -> bool:
    """Return True if this process is connected to a cluster with a registry."""
    cluster = connected_cluster()
    if cluster is None:
        return False
    try:
        return within(REACH_S, cluster.wants_offers)
    except Exception as error:  # as in `_from_cluster`
        logger.info("ray-warmup: nothing will be offered: %s", error)
        return False


def offer(manifest: Manifest) -> None:
    """Tell the cluster's registry of an unproven artifact of this node, where this process is connected to Ray."""
    cluster = connected_cluster()
    if cluster is None:
        return
    try:
        within(REACH_S, lambda: cluster.offer(manifest))
    except Exception as error:  # as in `_from_cluster`
        logger.info("ray-warmup: the registry was not told of artifact %s: %s", manifest.digest[:12], error)


def _is_there(store: NodeStore, identity: Parts) -> bool:
    looked = store.lookup(dict(identity))
    return looked.hit and looked.manifest is not None and not is_unproven(store.directory, looked.manifest)


def seconds_to_wait() -> float:
    """Return the seconds of RAY_WARMUP_WAIT. What is no number of seconds is named, and nothing is waited for."""
    text = env.read("RAY_WARMUP_WAIT") or "0"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if 0 <= seconds <= LONGEST_WAIT_S:
        return seconds
    logger.warning(
        "RAY_WARMUP_WAIT: %s: must be a number of seconds from 0 to %g; 0 is used -> correct the variable",
        shown(text),
        LONGEST_WAIT_S,
    )
    return 0.0


def connected_cluster() -> Cluster | None:
    """Return the cluster that this process is connected to, or None."""
    if not is_connected():
        return None
    found: Cluster = importlib.import_module(CLUSTER).connected()
    return found


def _asked_lately(lock: Path) -> dict[str, float]:
    """Return the engines for which a process has asked on this node, with the times. Others may start in between."""
    try:
        lines = lock.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return {}
    found: dict[str, float] = {}
    for line in lines:
        at, _, name = line.partition(" ")
        if name and at.isdecimal() and time.time() - float(at) < ASKED_FOR_S:
            found[name] = float(at)
    return found


def _ask(store: NodeStore, identity: Parts, wait_s: float) -> str:
    cluster = connected_cluster()
    reasons = []
    if cluster is not None:
        reason = _from_cluster(cluster, store, identity, wait_s)
        if not reason:
            return ""
        reasons.append(reason)
    url = env.read("RAY_WARMUP_REMOTE")
    fault = None if url is None else url_fault(url)
    if fault is not None:
        reasons.append(f"RAY_WARMUP_REMOTE: {shown(url)}: {fault}; no remote store is asked")
        return "; ".join(reasons)
    cache = CacheSection(remote=url)
    remote = RemoteCache(
        cache, store, dict(identity), on_taken=lambda artifact: note_received(store, artifact, "the remote store")
    )
    trouble = remote.fetch()
    if trouble is not None:
        reasons.append(trouble)
    return "; ".join(reasons)


def _from_cluster(cluster: Cluster, store: NodeStore, identity: Parts, wait_s: float) -> str:
    try:
        return within(wait_s + REACH_S + FETCH_S, lambda: cluster.fetch(store, identity, wait_s))
    except TimeoutError:
        return "the registry did not answer in time"
    except Exception as error:  # Ray's errors are of no kind that this project knows without it
        return f"the registry cannot be used: {type(error).__name__}: {error}"
