"""Launcher of one replica: describes its node, and records, installs and proves an engine there. Knows nothing of Ray.

`status` may be called from another thread at any time, every other method runs on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, assert_never

from ray_warmup.configs import env
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.artifact.artifact import Artifact, Blob, verify
from ray_warmup.warmup.artifact.header import header
from ray_warmup.warmup.artifact.manifest import parse_manifest
from ray_warmup.warmup.engines.artifacts import engine_store, proof_record
from ray_warmup.warmup.engines.artifacts.content import content_of
from ray_warmup.warmup.engines.artifacts.proof_record import ProofRecord
from ray_warmup.warmup.engines.artifacts.request_digest import digest_of
from ray_warmup.warmup.engines.known_engines import adapter_of
from ray_warmup.warmup.engines.launcher.completion import Completion
from ray_warmup.warmup.engines.launcher.proof import prove
from ray_warmup.warmup.engines.launcher.proof_rows import origin_of, proven_by
from ray_warmup.warmup.engines.launcher.recording import Recording, tuning_options
from ray_warmup.warmup.engines.launcher.remote_ranks import RemoteRanks
from ray_warmup.warmup.engines.node.facts import (
    NodeFacts,
    facts_here,
    held,
    note_request,
    remote_of,
    store_of,
)
from ray_warmup.warmup.engines.node.resolution import resolve_here
from ray_warmup.warmup.engines.start.child_process import ChildStarter
from ray_warmup.warmup.engines.start.engine_start import EngineStart
from ray_warmup.warmup.engines.start.starter import Starter
from ray_warmup.warmup.errors import EngineError
from ray_warmup.warmup.messages import engine
from ray_warmup.warmup.messages.allotting import (
    AllotTasks,
    EndMeasuring,
    MeasureTasks,
    MeasuringEnded,
    TasksAllotted,
    TasksMeasured,
)
from ray_warmup.warmup.messages.questions import name_of
from ray_warmup.warmup.messages.values import Heartbeat
from ray_warmup.warmup.signing.policy import believe, cannot_sign
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore

StarterOf = Callable[[tuple[int, ...]], Starter]
"""Starter on some bundles of the placement group."""
IDLE = "idle"


class Staged(Protocol):
    """Something that is waited for."""

    @property
    def stage(self) -> str:
        """Return what it is at."""


class Launcher:
    """One launcher. What a rank that watches does is nothing: it is asked nothing."""

    def __init__(
        self,
        config: EngineRunConfig,
        starter_of: StarterOf | None = None,
        remote_starter_of: StarterOf | None = None,
    ) -> None:
        """Keep the request.

        Args:
            config: the request.
            starter_of: how engines start on the replica's devices; as children of this process if none is given.
            remote_starter_of: how processes without an engine start there; like engines if none is given.
        """
        self._config = config
        self._starter_of = starter_of or (lambda bundles: ChildStarter())
        self._remote_starter_of = remote_starter_of or self._starter_of
        self._root = resolve_paths(config.cache).root
        self._facts: NodeFacts | None = None
        self._recording: Recording | None = None
        self._tuned: Recording | None = None
        """The recording that is or was waited for last; asked from another thread."""
        self._remote: RemoteRanks | None = None
        """Processes that measure for another replica."""
        self._packed: Artifact | None = None
        self._running: Staged | None = None
        """The start or the recording that is waited for, for its stage."""
        self._method, self._since = IDLE, time.monotonic()

    def answer(self, question: engine.EngineQuestion, blobs: Mapping[str, Blob]) -> engine.EngineAnswer:
        """Answer a question.

        `blobs` are those that were `wanted` of the artifact in the question. `AllotTasks` may come from another thread
        while a recording is waited for.
        """
        if isinstance(question, AllotTasks):
            return self._allot(question)
        with self._busy(name_of(type(question))):
            match question:
                case engine.DescribeNode():
                    return self._describe(question.again)
                case engine.RecordEngine():
                    return self._record(question)
                case engine.CaptureEngine():
                    return self._capture()
                case engine.PackEngine():
                    artifact, lease = store_of(self._root, self._here, question.key_sha256).load_artifact()
                    lease.release()
                    return self._handed_over(artifact)
                case engine.InstallEngine():
                    return self._install(question, blobs)
                case engine.ProveEngine():
                    return self._prove(question)
                case engine.ShareEngine():
                    return self._share(question.key_sha256)
                case MeasureTasks():
                    return self._measure(question)
                case EndMeasuring():
                    self._end_measuring()
                    return MeasuringEnded()
                case _:
                    assert_never(question)

    def wanted(self, question: engine.EngineQuestion, digests: Sequence[str]) -> Sequence[str]:
        """Return those blobs of a question's artifact that this node lacks."""
        if not isinstance(question, engine.InstallEngine):
            return ()
        manifest = parse_manifest(question.header.manifest)
        return store_of(self._root, self._here, manifest.key.sha256).blobs_missing(digests)

    def blob(self, digest: str) -> Blob:
        """Return one blob of what was packed last."""
        if self._packed is None or digest not in self._packed.blobs:
            raise EngineError(f"blob {digest[:12]} is not part of what was recorded here")
        return self._packed.blobs[digest]

    def status(self) -> Heartbeat:
        """Return the current question, and the stage of the engine that runs."""
        running = self._running
        return Heartbeat(self._method, "" if running is None else running.stage, time.monotonic() - self._since)

    def close(self) -> None:
        """End the engine that was recorded, and processes that measure for another replica, if they still run."""
        self._end_measuring()
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.close()

    @property
    def _here(self) -> NodeFacts:
        """This node, looked at once."""
        if self._facts is None:
            believe(self._config.cache)
            self._facts = facts_here(self._config)
        return self._facts

    @property
    def _environ(self) -> dict[str, str]:
        """The environment of the engine's processes: Ray hides every GPU from a launcher, which holds none."""
        environ = env.snapshot()
        if not environ.get("CUDA_VISIBLE_DEVICES"):
            environ.pop("CUDA_VISIBLE_DEVICES", None)
        return environ

    def _describe(self, again: bool) -> engine.NodeDescribed:
        facts = self._here
        resolved = resolve_here(
            self._config.engine, self._config.cache, self._environ, deadline_s=self._config.timeouts.probing
        )
        found = held(self._config, facts, resolved)
        trouble = None
        if found.content is None and not again:
            trouble = remote_of(self._config, facts, resolved.identity).fetch()
            found = held(self._config, facts, resolved)
            if found.content is not None:
                note_request(self._root, self._config, facts, found.content.key_sha256)
        is_hidden = again or found.content is None
        unused = f"what is there is not used: {found.reason}" if found.is_telling else None
        return engine.NodeDescribed(
            engine_version=facts.engine_version,
            device=facts.device,
            driver=facts.driver,
            identity=resolved.identity,
            digests=resolved.digests,
            content=None if is_hidden else found.content,
            is_proven=not is_hidden and found.proof is not None,
            proof=None if is_hidden else found.proof,
            reason=found.reason,
            warnings=tuple(filter(None, (unused, trouble))),
            cannot_sign=cannot_sign(),
        )

    def _record(self, question: engine.RecordEngine) -> engine.EngineRecorded:
        self.close()
        starter = self._starter_of(question.bundles)
        recording = Recording(self._config.engine, self._config.cache, self._environ, starter)
        self._running = self._tuned = recording
        try:
            result = recording.until_answered()
        except BaseException:
            self._tuned = None
            recording.close()
            raise
        self._recording = recording
        tuned = recording.tuned
        return engine.EngineRecorded(
            engine_s=float(result["engine_s"]),
            first_answer_s=float(result["first_answer_s"]),
            requests=tuned.requests,
            tasks=tuned.tasks,
            tasks_elsewhere=tuned.tasks_elsewhere,
            notes=tuned.warnings,
        )

    def _allot(self, question: AllotTasks) -> TasksAllotted:
        """Exchange tasks and rows while `_record` waits in another thread."""
        recording = self._tuned
        if recording is None:
            return TasksAllotted("waiting")
        return recording.allot(question)

    def _measure(self, question: MeasureTasks) -> TasksMeasured:
        if question.work is not None:
            self._end_measuring()
            section = self._config.engine
            adapter = adapter_of(section.kind)
            self._remote = RemoteRanks(
                section.ranks_per_replica,
                tuning_options(section),
                question.work,
                self._remote_starter_of(question.bundles),
                lambda home: {**self._environ, **adapter.home(home)},
            )
        if self._remote is None:
            return TasksMeasured("ended", error="no process measures here any more")
        self._running = self._remote
        return self._remote.measure(question.lot)

    def _end_measuring(self) -> None:
        remote, self._remote = self._remote, None
        if remote is not None:
            remote.close()

    def _capture(self) -> engine.EnginePacked:
        recording = self._recording
        if recording is None:
            raise EngineError("no recorded engine runs here")
        self._running = recording
        try:
            done = recording.capture(self._config.timeouts.capturing)
        finally:
            self.close()
        note_request(self._root, self._config, self._here, done.artifact.manifest.key.sha256)
        return self._handed_over(done.artifact)

    def _handed_over(self, artifact: Artifact) -> engine.EnginePacked:
        self._packed = artifact
        return engine.EnginePacked(content_of(artifact), header(artifact.manifest, artifact.digest))

    def _install(self, question: engine.InstallEngine, blobs: Mapping[str, Blob]) -> engine.EngineInstalled:
        manifest = parse_manifest(question.header.manifest)
        checked = verify(manifest, blobs)
        directory = store_of(self._root, self._here, manifest.key.sha256).directory
        store = NodeStore(directory, modes=self._config.cache.modes)
        store.publish(checked, is_checked=True)
        if question.proven_by:
            engine_store.note_received(store, checked.digest, question.proven_by)
        note_request(self._root, self._config, self._here, manifest.key.sha256)
        return engine.EngineInstalled(checked.digest)

    def _prove(self, question: engine.ProveEngine) -> engine.EngineProven:
        self._end_measuring()
        starter = self._starter_of(question.bundles)
        store = store_of(self._root, self._here, question.key_sha256)
        directory = store.directory
        section, facts = self._config.engine, self._here
        request = digest_of(section, facts.engine_version, facts.device)
        completion = Completion(store, section.shown_args, request)
        try:
            proof = prove(section, self._config.cache, self._environ, starter, self._watch, completion.take)
        except EngineError as error:
            if error.details.get("placed"):  # it crashed or hung with what we gave it, so no other engine gets it
                proof_record.refuse(directory, question.artifact, str(error).splitlines()[0])
            raise
        proven = proven_by(proof, question.artifact)
        if not proven.problems:
            record = ProofRecord(
                artifact=question.artifact,
                engine=facts.name,
                device=facts.device,
                driver=facts.driver,
                engine_s=proven.engine_s,
                first_answer_s=proven.first_answer_s,
                at=time.time(),
                reach=question.reach,
            )
            proof_record.save_proof(directory, record)
        else:
            proven = self._completed(proven, completion, store)
        return replace(proven, notes=(*proven.notes, *origin_of(store, question.reach)))

    def _completed(self, proven: engine.EngineProven, completion: Completion, store: NodeStore) -> engine.EngineProven:
        """Publish what a proof start has completed, to be proven in its turn."""
        if completion.artifact is None:
            return replace(proven, notes=(*proven.notes, *filter(None, [completion.trouble])))
        store.publish(completion.artifact)
        note_request(self._root, self._config, self._here, completion.artifact.manifest.key.sha256)
        return replace(proven, completed=content_of(completion.artifact))

    def _share(self, key_sha256: str) -> engine.EngineShared:
        store = store_of(self._root, self._here, key_sha256)
        identity = store.current()[1].key.parts
        return engine.EngineShared(remote_of(self._config, self._here, identity).share())

    def _watch(self, start: EngineStart) -> None:
        self._running = start

    @contextmanager
    def _busy(self, method: str) -> Iterator[None]:
        self._method, self._since = method, time.monotonic()
        try:
            yield
        finally:
            self._method, self._since, self._running = IDLE, time.monotonic(), None
