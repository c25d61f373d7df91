"""The cluster as an engine's process sees it: its registry, asked by `warmup/engines/plugin/remote_lookup.py`."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import ray

from ray_warmup.actors.registry.calls import in_short
from ray_warmup.actors.registry.client import found_registry
from ray_warmup.actors.stores.artifacts import facts_of
from ray_warmup.warmup.artifact.archive import unpack
from ray_warmup.warmup.artifact.artifact import verify
from ray_warmup.warmup.artifact.manifest import Manifest, key_digest
from ray_warmup.warmup.engines.artifacts.engine_store import note_received
from ray_warmup.warmup.engines.plugin.remote_lookup import FETCH_S, REACH_S, Parts
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.registry.values import Known, Wait
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger("ray_warmup")

POLL_S = 5.0
ATTEMPTS = 3
"""How often an artifact is asked for that is replaced meanwhile."""
NO_REGISTRY = "no registry runs in this cluster"


def connected() -> ConnectedCluster:
    """Return the cluster that this process is connected to."""
    return ConnectedCluster()


class ConnectedCluster:
    """`Cluster` by the registry, if one runs. None is started: an engine asks, and makes nothing for others."""

    def fetch(self, store: NodeStore, identity: Parts, wait_s: float) -> str:
        """Publish the registry's artifact into a node's store, or return the reason for a miss."""
        try:
            actor = found_registry()
            if actor is None:
                return NO_REGISTRY
            for _ in range(ATTEMPTS):
                answer = self._answer(actor, key_digest(identity), wait_s)
                if not isinstance(answer, Known):
                    break
                if self._is_installed(actor, store, identity):
                    return ""
        except ray.exceptions.RayError as error:
            return f"the registry cannot be used: {in_short(error)}"
        except WarmupError as error:
            return f"what the registry has cannot be taken: {error}"
        if isinstance(answer, Wait):
            return f"{answer.holder} makes the artifact since {answer.for_s:.0f} s; RAY_WARMUP_WAIT waits for it"
        if answer is None:
            return "the registry knows no artifact of it"
        return "no node has the artifact any more"

    def wants_offers(self) -> bool:
        """Return True if a registry runs."""
        return found_registry() is not None

    def offer(self, manifest: Manifest) -> None:
        """Tell the registry, if one runs."""
        actor = found_registry()
        if actor is not None:
            facts = replace(facts_of(manifest), is_proven=False)
            actor.installed.remote(facts, ray.get_runtime_context().get_node_id())

    def _answer(self, actor: Any, key: str, wait_s: float) -> Known | Wait | None:
        """Ask until the artifact is known, nobody makes it, or the time is over."""
        until, is_said = time.monotonic() + wait_s, False
        while True:
            answer: Known | Wait | None = ray.get(actor.look.remote(key), timeout=REACH_S)
            left = until - time.monotonic()
            if not isinstance(answer, Wait) or left <= 0:
                return answer
            if not is_said:
                logger.warning(
                    "ray-warmup: waiting at most %.0f s for %s, which makes the artifact -> nothing to do",
                    left,
                    answer.holder,
                )
                is_said = True
            ray.get(actor.wait.remote(key, min(left, POLL_S)), timeout=POLL_S + REACH_S)

    def _is_installed(self, actor: Any, store: NodeStore, identity: Parts) -> bool:
        """Publish the registry's artifact. False: it was pruned or replaced since it was looked for."""
        refs = ray.get(actor.bytes_of.remote(key_digest(identity)), timeout=FETCH_S)
        if not refs:
            return False
        _, artifact = unpack(memoryview(ray.get(refs[0], timeout=FETCH_S)))
        # Checked against this engine's own identity, since the registry only passes bytes on.
        artifact = verify(artifact.manifest, artifact.blobs, expected_key=dict(identity))
        store.publish(artifact, is_checked=True)
        note_received(store, artifact.digest, "the registry")
        actor.installed.remote(facts_of(artifact.manifest), ray.get_runtime_context().get_node_id())
        return True
