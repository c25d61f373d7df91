"""The registry: a detached actor that knows a cluster's artifacts, hands them out and lets one process make each.

It has no CPU and no GPU, prefers the head node, is started again by Ray, and then learns what there is from the nodes'
own stores, and for a key that none of them holds from the remote store (`cache.remote`). Its name holds this project's
version, so two versions beside each other do not meet. The bookkeeping is `warmup/registry/`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

import ray

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.cluster.membership import ids_of
from ray_warmup.actors.cluster.metrics_export import EVERY_S, export_metrics
from ray_warmup.actors.cluster.transfer import buffer
from ray_warmup.actors.registry.remote_artifacts import RemoteArtifacts
from ray_warmup.actors.stores.artifacts import pack_stored, stored_artifacts
from ray_warmup.configs.schema import CacheSection
from ray_warmup.configs.version import VERSION
from ray_warmup.warmup.metrics import catalog, sink
from ray_warmup.warmup.registry.byte_budget import ByteBudget
from ray_warmup.warmup.registry.cluster_facts import DriverVersions, cache_difference
from ray_warmup.warmup.registry.finished_work import FinishedWork
from ray_warmup.warmup.registry.known_artifacts import KnownArtifacts
from ray_warmup.warmup.registry.lease_book import LeaseBook
from ray_warmup.warmup.registry.values import Answer, ArtifactFacts, Asker, KeyStatus, Known, Lead, Wait
from ray_warmup.warmup.registry.wait_times import WaitTimes
from ray_warmup.warmup.tasks import TaskResult

logger = logging.getLogger(__name__)

NAMES = "registry-"
"""Every registry's name begins so, and ends with a version."""
SILENCE_S = 10.0
"""A leader that is silent for so long loses its lease. Leaders beat every BEAT_S."""
BEAT_S = 2.0
MAX_BYTES = 4 << 30
GRACE_S = 3 * BEAT_S
"""After a restart no lease is given for so long, in which every leader that lives has been heard."""
_NODES_EVERY_S = 2.0
_LISTEN_EVERY_S = 1.0
_LEARN_LIMIT_S = 30.0
_PACK_LIMIT_S = 120.0
_LOOK_LIMIT_S = 5.0
"""For an engine that starts, which would rather compile than wait for a new registry."""
_REMOTE_LIMIT_S = 3.0
"""For the remote store to say what it has; an answer that comes later is there for the next asker."""


def registry_name() -> str:
    """Return the actor's name, in the namespace of this project."""
    return f"{NAMES}{VERSION}"


class Registry:
    """Async actor. Every method answers within seconds but `wait` and `bytes_of`, which have limits of their own."""

    def __init__(self, cache: str, max_bytes: int = MAX_BYTES) -> None:
        """Start to learn. `cache` is the configuration's section as JSON, which names the nodes' directories."""
        logging.basicConfig(level=logging.INFO)
        self._cache = cache
        self._leases = LeaseBook(SILENCE_S)
        self._known = KnownArtifacts()
        self._remote = RemoteArtifacts(CacheSection.model_validate_json(cache))
        self._finished = FinishedWork()
        self._drivers = DriverVersions()
        self._lost: set[str] = set()
        """Nodes that were lost: a process that still runs on one leads no more."""
        self._asked: set[str] = set()
        """Nodes that were asked what they hold."""
        self._questions: set[asyncio.Task[None]] = set()
        self._budget = ByteBudget(max_bytes)
        self._refs: dict[str, ray.ObjectRef] = {}
        self._fetching: dict[str, asyncio.Future[None]] = {}
        self._changed = asyncio.Event()
        self._began = time.monotonic()
        self._leases_from = self._began + _grace_s()
        self._waits = WaitTimes()
        export_metrics()
        self._exporting = asyncio.ensure_future(self._export())
        self._listening = asyncio.ensure_future(self._listen())
        self._learned = asyncio.ensure_future(self.learn())
        self._watching = asyncio.ensure_future(self._watch_nodes())

    async def ask(self, key: str, asker: Asker) -> Answer:
        """Say where a key's artifact is: known, being made by somebody, or to be made by the asker."""
        self._waits.asked(key, asker, self._now())
        await asyncio.wait(
            {self._learned}, timeout=_LEARN_LIMIT_S
        )  # a new registry must not let everything be made anew
        # Leaders of a registry that died are heard before a lease of theirs is given away.
        await self._newest(key)
        while self._known.newest(key) is None and (left := self._leases_from - self._now()) > 0:
            await asyncio.sleep(min(left, 0.2))
        facts = self._known.newest(key)
        if facts is not None:
            self._count_wait(key, asker, "known")
            return Known(facts)
        answer = self._leases.ask(key, asker, self._now())
        if isinstance(answer, Lead):
            self._count_wait(key, asker, "lead")
            return replace(answer, finished=self._finished.of(key))
        return answer

    async def look(self, key: str) -> Known | Wait | None:
        """Say where a key's artifact is, or who makes it, without giving the asker a lease."""
        await asyncio.wait({self._learned}, timeout=_LOOK_LIMIT_S)
        facts = await self._newest(key)
        return self._leases.holder(key, self._now()) if facts is None else Known(facts)

    async def wait(self, key: str, limit_s: float) -> None:
        """Return when anything is new about a key, at the latest after the limit."""
        until = self._now() + limit_s
        while self._known.newest(key) is None and self._leases.holder(key, self._now()) is not None:
            left = until - self._now()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, 1.0))

    async def bytes_of(self, key: str) -> list[ray.ObjectRef]:
        """Return a reference to a key's archive in a list, or an empty list where nobody has it any more.

        A reference in a list is passed on as it is. The archive is fetched from a node that holds it, unless it is in
        memory already.
        """
        facts = self._known.newest(key)
        if facts is None:
            return []
        # Bytes may have left memory while the nodes still have them on disk.
        if key not in self._refs:
            await self._fetched(facts)
        self._budget.touch(key)
        return [self._refs[key]] if key in self._refs else []

    async def offer(self, facts: ArtifactFacts, archive: list[ray.ObjectRef], node_id: str, token: str) -> bool:
        """Take a finished artifact over from the process that made it. Returns True if it is the newest of its key.

        The bytes are copied, because what a process puts into the object store dies with that process. An artifact of
        a process that has lost its lease is refused, so that it replaces nothing of its heir.
        """
        data = memoryview(await archive[0])
        if self._is_superseded(facts.key_sha256, token, facts.digest):
            logger.info("artifact %s comes after its lease has gone to another process", facts.digest[:12])
            return False
        is_newest = self._learn(facts, node_id)
        if is_newest:
            self._keep(facts.key_sha256, await asyncio.to_thread(ray.put, buffer(data)), len(data))
        # Only after the artifact is known, or the next asker would be told to measure.
        self._leases.end(facts.key_sha256, token)
        self._tell()
        return is_newest

    async def installed(self, facts: ArtifactFacts, node_id: str) -> None:
        """Take note that a node's store holds an artifact."""
        self._learn(facts, node_id)

    async def beat(self, key: str, token: str, holder: Asker, progress: str) -> bool:
        """Hear from a leader. False: its lease has gone to somebody else, or its node is lost."""
        if holder.node_id in self._lost or self._is_superseded(key, token):
            return False
        return self._leases.beat(key, token, holder, progress, self._now())

    async def finished(self, key: str, token: str, results: tuple[TaskResult, ...]) -> None:
        """Keep what a leader has finished, for its heir. Of a lease that has gone to somebody else nothing is kept."""
        if self._leases.is_held(key, token, self._now()):
            self._finished.keep(key, results)

    async def give_up(self, key: str, token: str) -> None:
        """A leader did not get through: the next asker leads."""
        self._leases.end(key, token)
        self._tell()

    async def learn(self) -> int:
        """Ask every node what its stores hold, and return the number of known keys."""
        nodes = await asyncio.to_thread(membership.members)
        await self._learn_from(set(ids_of(nodes)))
        return len(tuple(self._known.keys()))

    async def status(self) -> tuple[KeyStatus, ...]:
        """Return what is known, key by key."""
        now = self._now()
        keys = sorted({*self._known.keys(), *self._leases.keys()})
        return tuple(self._status_of(key, self._leases.holder(key, now)) for key in keys)

    async def about(self) -> tuple[float, int, str]:
        """Return the age in seconds, the bytes in memory, and what differs between the nodes' drivers."""
        return time.monotonic() - self._began, self._budget.used, self._drivers.note()

    async def notes(self, cache: str, node_id: str, driver: str = "") -> tuple[str, ...]:
        """Return what a process should be told: a config that is not this registry's, several driver versions.

        Args:
            cache: the process' cache section as JSON.
            node_id: its node.
            driver: version of the GPU driver there; empty without a GPU.
        """
        self._drivers.seen(node_id, driver)
        found = (cache_difference(self._cache, cache), self._drivers.note())
        return tuple(note for note in found if note)

    def _is_superseded(self, key: str, token: str, digest: str = "") -> bool:
        """Return True if another process leads, or has made another artifact than this one, since a lease was lost."""
        now = self._now()
        if self._leases.is_held(key, token, now):
            return False
        known = self._known.newest(key)
        if known is not None:
            return known.digest != digest
        return self._leases.holder(key, now) is not None

    async def _listen(self) -> None:
        """Take note of every second in which leaders can be heard."""
        while True:
            self._now()
            await asyncio.sleep(_LISTEN_EVERY_S)

    def _now(self) -> float:
        """Return the time by which leases are kept. Asked before every look at them, also right after a stop."""
        now = time.monotonic()
        self._leases.listen(now)
        return now

    def _count_wait(self, key: str, asker: Asker, outcome: str) -> None:
        waited = self._waits.ended(key, asker, self._now())
        sink.record(catalog.LEASE_WAIT.sample(waited, outcome=outcome))

    async def _export(self) -> None:
        """Export the registry's gauges as often as Ray needs them."""
        while True:
            sink.record(
                catalog.REGISTRY_LEASES.sample(self._leases.num_held(self._now())),
                catalog.REGISTRY_KEYS.sample(len(tuple(self._known.keys()))),
                catalog.REGISTRY_BYTES.sample(self._budget.used),
            )
            await asyncio.sleep(EVERY_S)

    def _status_of(self, key: str, leader: Wait | None) -> KeyStatus:
        facts = self._known.newest(key)
        return KeyStatus(
            key_sha256=key,
            digest="" if facts is None else facts.digest,
            nodes=self._known.nodes_with(key),
            bytes=0 if facts is None else facts.bytes,
            is_in_memory=key in self._refs,
            leader="" if leader is None else str(leader.holder),
            for_s=0.0 if leader is None else leader.for_s,
            progress="" if leader is None else leader.progress,
            engine="" if facts is None else facts.engine,
            unproven=self._known.unproven_on(key),
        )

    async def _fetched(self, facts: ArtifactFacts) -> None:
        """Get an archive, once for all who ask for it at a time."""
        key = facts.key_sha256
        if key not in self._fetching:
            self._fetching[key] = asyncio.ensure_future(self._fetch(facts))
            self._fetching[key].add_done_callback(lambda _: self._fetching.pop(key, None))
        await asyncio.shield(self._fetching[key])

    async def _fetch(self, facts: ArtifactFacts) -> None:
        """Get an archive from a node that holds it. Nodes that do not have it any more are forgotten."""
        for node_id in self._known.nodes_with(facts.key_sha256):
            data = await asyncio.to_thread(pack_stored, self._cache, facts, node_id, _PACK_LIMIT_S)
            if facts.key_sha256 in self._refs or self._known.newest(facts.key_sha256) != facts:
                return  # another asker's fetch was quicker, or a newer one came meanwhile: the asker asks again
            if data is not None:
                self._keep(facts.key_sha256, await asyncio.to_thread(ray.put, buffer(data)), len(data))
                return
            # Its store was pruned since it was learnt.
            self._known.lose(facts.key_sha256, node_id)
        archive = await self._remote.archive(facts)
        if archive is None:
            self._known.forget(facts.key_sha256)
        elif self._known.newest(facts.key_sha256) == facts:
            self._keep(facts.key_sha256, await asyncio.to_thread(ray.put, buffer(archive)), len(archive))

    async def _newest(self, key: str) -> ArtifactFacts | None:
        """Return the newest artifact of a key: of the nodes, else of the remote store."""
        if self._known.newest(key) is None:
            found = await self._remote.newest(key, _REMOTE_LIMIT_S)
            if found is not None:
                self._known.learn(found, None)
        return self._known.newest(key)

    def _learn(self, facts: ArtifactFacts, node_id: str) -> bool:
        """Take note of an artifact. Bytes of an older one of its key leave memory. Returns True if it is the newest."""
        before = self._known.newest(facts.key_sha256)
        is_newest = self._known.learn(facts, node_id)
        self._finished.forget(facts.key_sha256)
        if is_newest and before is not None and before.digest != facts.digest:
            # Whoever fetches the older one still has its reference, and gets it whole.
            self._refs.pop(facts.key_sha256, None)
            self._budget.drop(facts.key_sha256)
        return is_newest

    def _keep(self, key: str, ref: ray.ObjectRef, size: int) -> None:
        self._refs[key] = ref
        on_disk = frozenset(name for name in self._refs if self._known.nodes_with(name))
        for name in self._budget.add(key, size, on_disk):
            del self._refs[name]
            if name not in on_disk:
                # On no disk: the next asker makes it again, unless the remote store has it.
                self._known.forget(name)
                self._remote.forget(name)

    def _tell(self) -> None:
        # The event that waiters hold is set, and later waiters get a new one.
        self._changed.set()
        self._changed = asyncio.Event()

    async def _learn_from(self, node_ids: set[str]) -> None:
        """Ask these nodes what their stores hold."""
        self._asked |= node_ids
        rows = await asyncio.to_thread(stored_artifacts, self._cache, node_ids, _LEARN_LIMIT_S)
        for node_id, facts in rows:
            if node_id not in self._lost:
                self._learn(facts, node_id)
        self._tell()

    def _meet(self, newcomers: set[str]) -> None:
        """Ask nodes that have joined, such as one that was lost and is started again on its old disk."""
        # At first `learn` asks every node.
        if newcomers and self._learned.done():
            question = asyncio.ensure_future(self._learn_from(newcomers))
            self._questions.add(question)
            question.add_done_callback(self._questions.discard)

    async def _watch_nodes(self) -> None:
        """Free the leases of lost nodes, and learn what nodes that join hold."""
        alive: set[str] = set()
        while True:
            # The call blocks on the control service.
            rows = await asyncio.to_thread(ray.nodes)
            now = {row["NodeID"] for row in rows if row["Alive"]}
            self._lost = (self._lost | (alive - now)) - now
            for node_id in alive - now:
                self._known.forget_node(node_id)
                self._drivers.forget_node(node_id)
                for key in self._leases.forget_node(node_id):
                    logger.info("node %s is lost, its lease on %s is free", node_id[:8], key[:12])
                self._tell()
            # Seen twice, because tasks for a node fail until every raylet knows it.
            self._meet((alive & now) - self._asked)
            alive = now
            await asyncio.sleep(_NODES_EVERY_S)


def _grace_s() -> float:
    return GRACE_S if ray.get_runtime_context().was_current_actor_reconstructed else 0.0
