"""`ray_warmup.ensure_warm`: a process that owns a GPU and is connected to Ray becomes warm, or makes the others so.

It asks its node's store first, then the registry. Of all processes that lack one artifact one measures, and the others
wait for it, install what it made and load it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

import ray

from ray_warmup.actors.cluster.metrics_export import export_metrics
from ray_warmup.actors.cluster.transfer import buffer
from ray_warmup.actors.connection.addresses import is_connected_by_client
from ray_warmup.actors.errors import ClusterError
from ray_warmup.actors.registry.calls import RegistryCalls, in_short
from ray_warmup.actors.registry.registry_actor import BEAT_S
from ray_warmup.actors.run.concluding import notices, verdict_of
from ray_warmup.actors.stores.artifacts import archive_of, facts_of
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.archive import unpack_known
from ray_warmup.warmup.artifact.artifact import Artifact, verify
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER
from ray_warmup.warmup.errors import ArtifactError, StoreError, WarmupError
from ray_warmup.warmup.metrics import sink
from ray_warmup.warmup.metrics.of_report import samples_of
from ray_warmup.warmup.rank.in_process_run import Elsewhere, Hooks, InProcessRun
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.rank.rank_workloads import checked
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.registry.values import Asker, Known, Lead
from ray_warmup.warmup.report import WarmupReport
from ray_warmup.warmup.tasks import TaskResult

logger = logging.getLogger(__name__)

POLL_S = 5.0
TOGETHER_S = 0.1
"""Pause between two signs of life: many short tasks are told together."""
OnNote = Callable[[str], None]
PUBLISHED_IN = "INSTALLING"
"""Phase in which a leader's artifact gets onto its node's disk."""


class _LeaseLostError(Exception):
    """Another process leads since this one fell silent."""


def ensure_warm(
    config: WarmupConfig,
    *,
    rank: int = 0,
    wait_s: float | None = None,
    on_note: OnNote | None = None,
    tuner: str = FLASHINFER_TUNER,
) -> WarmupReport:
    """Load the tuned table of a configuration into this process, measuring it only if nobody in the cluster has it.

    To be called in a process that owns its GPU and is connected to Ray, before it serves. `report.ready` is True if
    this process serves from the table.

    Args:
        config: what is served. Placement and the number of ranks are the caller's own business here.
        rank: this process' rank, which decides its share of the model.
        wait_s: seconds to wait for another process that measures; default `timeouts.single_flight`.
        on_note: told each thing that is waited for, as a sentence.
        tuner: `module:function` that makes the tuner.

    Raises:
        ClusterError: this process is not connected to Ray, or through Ray Client.
        ConfigError: the configuration is wrong.
    """
    if not ray.is_initialized():
        raise ClusterError("ensure_warm needs a process that is connected to Ray: call ray.init first")
    if is_connected_by_client():  # its table would lie on this machine, and the registry would look for it on the head
        raise ClusterError(
            "ensure_warm makes a process on a node of the cluster warm, and this one is connected through Ray Client: "
            "call it in an actor, or ray.init with the cluster's own address on a node"
        )
    # This process serves afterwards, so what its monitor sees is exported, too.
    export_metrics()
    config = checked(config)
    joiner = _Joiner(config, config.timeouts.single_flight if wait_s is None else wait_s, on_note or logger.info)
    return joiner.run(_rank_info(config, rank), tuner)


class _Joiner:
    """One process on its way to be warm."""

    def __init__(self, config: WarmupConfig, wait_s: float, on_note: OnNote) -> None:
        self._config = config
        self._wait_s = wait_s
        self._on_note = on_note
        self._asker = Asker(_node_id(), os.getpid(), socket.gethostname())
        self._registry = RegistryCalls(config.cache, on_note)
        self._lease: _Leadership | None = None
        self._joined: InProcessRun | None = None
        self._is_published = False
        """From here on a lost lease changes nothing on this node."""

    def run(self, info: RankInfo, tuner: str) -> WarmupReport:
        """Run to the report. A process that loses its lease on the way begins anew, and takes what its heir makes."""
        while True:
            try:
                return self._run_once(info, tuner)
            except _LeaseLostError:
                self._on_note("another process took the lease over while this one was silent, and is followed now")

    def _run_once(self, info: RankInfo, tuner: str) -> WarmupReport:
        """Run to the report, then share what was made and give the lease back. Raises _LeaseLostError."""
        backend = self._config.cluster.backend_beside_gpus
        run_id = f"join-{os.getpid()}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        hooks = Hooks(self._on_miss, self._on_phase, self._on_stored)
        joined = self._joined = InProcessRun(self._config, info, backend, tuner, run_id, hooks)
        self._is_published = False
        try:
            report = joined.run()
            if report.ready:
                self._share(joined.process)
        except _LeaseLostError:
            joined.process.close()
            raise
        finally:
            lease, self._lease = self._lease, None
            if lease is not None:
                # Also after a failure, so that others need not wait for the silence of this process.
                lease.end()
        sink.record(*samples_of(report))
        for _, notice in notices(joined.machine.run, verdict_of(report)):
            joined.process.conclude(notice)
        return report

    def _on_phase(self, phase: str, task: str) -> None:
        lease = self._lease
        if lease is None or self._joined is None:
            return
        lease.tell(f"{phase} {task}".strip(), self._joined.finished)
        if self._is_published:
            return
        self._is_published = phase == PUBLISHED_IN
        # Asked for the last time before anything is published, because a process that was stopped does not know it.
        if lease.is_lost or (self._is_published and not lease.confirm()):
            raise _LeaseLostError

    def _on_miss(self, process: RankProcess) -> Elsewhere:
        """Ask the cluster. Returns its artifact, or what is left of an earlier leader's work, to measure the rest."""
        try:
            return self._from_cluster(process)
        except ray.exceptions.RayError as error:
            self._on_note(f"the registry cannot be used, this process measures for itself: {in_short(error)}")
            return Elsewhere()
        except WarmupError as error:
            self._on_note(f"nothing was taken from the registry, this process measures for itself: {error}")
            return Elsewhere()

    def _from_cluster(self, process: RankProcess) -> Elsewhere:
        key = process.key.sha256
        for note in self._registry.notes(self._asker.node_id, process.key.as_dict().get("driver", "")):
            self._on_note(note)
        until = time.monotonic() + self._wait_s
        while True:
            answer = self._registry.ask(key, self._asker)
            if isinstance(answer, Lead):
                self._lease = _Leadership(self._registry, key, answer.token, self._asker)
                if answer.finished:
                    self._on_note(f"{len(answer.finished)} tasks of an earlier process are taken over")
                return Elsewhere(finished=answer.finished)
            if isinstance(answer, Known):
                artifact = self._stored(process, answer.facts.digest) or self._fetch(process, answer.facts.digest)
                if artifact is not None:
                    return Elsewhere(artifact)
                if time.monotonic() > until:
                    raise StoreError(f"artifact {answer.facts.digest[:12]} could not be had in {self._wait_s:g} s")
                continue
            left = until - time.monotonic()
            if left <= 0:
                raise StoreError(f"{answer.holder} did not finish within {self._wait_s:g} s")
            how = f", {answer.progress}" if answer.progress else ""
            self._on_note(f"waiting for {answer.holder}, which measures since {answer.for_s:.0f} s{how}")
            self._registry.wait(key, min(left, POLL_S))

    def _stored(self, process: RankProcess, digest: str) -> Artifact | None:
        """Return the artifact from this node's store, where another process has put it meanwhile."""
        with contextlib.suppress(StoreError, ArtifactError):
            artifact, held = process.store.load_artifact()
            held.release()
            if artifact.digest == digest:
                return artifact
        return None

    def _fetch(self, process: RankProcess, digest: str) -> Artifact | None:
        """Fetch and check the cluster's artifact. None: it is nowhere any more, or was replaced meanwhile."""
        limit_s = self._config.timeouts.installing
        refs = self._registry.bytes_of(process.key.sha256, limit_s)
        if not refs:
            return None
        try:
            artifact = unpack_known(memoryview(ray.get(refs[0], timeout=limit_s)), digest)
        except (ray.exceptions.OwnerDiedError, ray.exceptions.ObjectLostError):
            return None  # the registry was started anew meanwhile: ask it again
        if artifact is not None:
            # Against this process' own key, since the registry only passes bytes on.
            verify(artifact.manifest, {}, expected_key=process.key.as_dict())
        return artifact

    def _on_stored(self, artifact: Artifact) -> None:
        self._registry.installed(facts_of(artifact.manifest), self._asker.node_id)

    def _share(self, process: RankProcess) -> None:
        """Hand a new artifact to the registry."""
        lease = self._lease
        if lease is None:
            return
        if not lease.is_heard:  # its time for the bytes would pass before this process may serve
            self._on_note("the artifact stays on this node alone: the registry does not answer")
            return
        try:
            artifact, held = process.store.load_artifact()
            held.release()
            data = archive_of(artifact)
            facts = facts_of(artifact.manifest, len(data))
            archive = [ray.put(buffer(data))]
            # Waited for, because the bytes die with this process unless the registry has copied them.
            limit_s = self._config.timeouts.pushing
            if not self._registry.offer(facts, archive, self._asker.node_id, lease.token, limit_s):
                self._on_note("the artifact stays on this node alone: another process has made one meanwhile")
        except (ray.exceptions.RayError, StoreError, ArtifactError) as error:
            self._on_note(f"the artifact stays on this node alone: {in_short(error)}")


class _Leadership:
    """A lease, kept by a thread until the end."""

    def __init__(self, registry: RegistryCalls, key: str, token: str, holder: Asker) -> None:
        self.token = token
        self.is_lost = False
        """Another process leads."""
        self.is_heard = True
        """The registry has answered the last sign of life."""
        self._progress = ""
        self._finished: tuple[TaskResult, ...] = ()
        self._news = threading.Event()
        self._registry = registry
        self._key = key
        self._holder = holder
        self._ended = threading.Event()
        # A thread, because the measuring blocks this one for minutes.
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def tell(self, progress: str, finished: tuple[TaskResult, ...]) -> None:
        """Say how far this process is. Finished tasks are handed over soon, because it may die in the next one."""
        is_more = len(finished) > len(self._finished)
        self._progress, self._finished = progress, finished
        if is_more:
            self._news.set()

    def confirm(self) -> bool:
        """Ask whether the lease is still held. A registry that stays away is no answer, and no reason to lose work."""
        try:
            self.is_lost = not self._registry.beat(self._key, self.token, self._holder, self._progress)
            self.is_heard = True
        except ray.exceptions.RayError as error:
            self.is_heard = False
            logger.info("the registry did not answer a sign of life: %s", in_short(error))
        return not self.is_lost

    def end(self) -> None:
        """Give the lease back."""
        self._ended.set()
        self._news.set()
        self._registry.give_up(self._key, self.token)

    def _beat(self) -> None:
        told = 0
        while not self._ended.wait(TOGETHER_S):
            self._news.wait(BEAT_S)
            self._news.clear()
            if self._ended.is_set():
                return
            finished = self._finished
            with contextlib.suppress(ray.exceptions.RayError):  # a registry that comes back later hears the next one
                if not self.confirm():
                    return
                if len(finished) > told:
                    self._registry.finished(self._key, self.token, finished[told:])
                    told = len(finished)


def _node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _rank_info(config: WarmupConfig, rank: int) -> RankInfo:
    context = ray.get_runtime_context()
    return RankInfo(
        rank=rank,
        world_size=config.cluster.num_ranks,
        local_rank=0,
        local_world_size=1,
        node_rank=0,
        node_id=_node_id(),
        bundle_index=0,
        gpu_ids=tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", [])),
        address=ray.util.get_node_ip_address(),
        pid=os.getpid(),
        host=socket.gethostname(),
    )
