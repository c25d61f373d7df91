"""Record an engine on this node: start it with empty caches, tune its calls, publish what it filled."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ray_warmup.configs.engine_schema import RealEngineSection
from ray_warmup.configs.schema import CacheSection, TimeoutsSection
from ray_warmup.warmup.artifact.artifact import Artifact, Content
from ray_warmup.warmup.engines.artifacts import engine_store, request_index
from ray_warmup.warmup.engines.artifacts.request_digest import device_here, digest_of
from ray_warmup.warmup.engines.artifacts.request_index import RequestRow
from ray_warmup.warmup.engines.launcher.captured_artifact import collect
from ray_warmup.warmup.engines.start.engine_start import EngineStart, Started
from ray_warmup.warmup.engines.start.starter import Starter
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.outcome import TunedRequests, outcome_of
from ray_warmup.warmup.engines.tuning.session import TuningSession
from ray_warmup.warmup.engines.tuning.starts import until_tuned
from ray_warmup.warmup.messages.allotting import AllotTasks, TasksAllotted
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded start and where its artifact was published."""

    started: Started
    artifact: Artifact
    store: Path
    generation: int
    tuned: TunedRequests = field(default_factory=TunedRequests)
    """What was tuned of the engine's own calls."""


class Recording:
    """A start with empty caches, from its beginning until its caches are captured."""

    def __init__(
        self,
        section: RealEngineSection,
        cache: CacheSection,
        environ: Mapping[str, str],
        starter: Starter | None = None,
    ) -> None:
        """Start the engine. Raises EngineError."""
        self._section = section
        self._cache = cache
        self._environ, self._starter = environ, starter
        self._starts = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="ray-warmup-record-")
        self._home = Path(self._scratch.name) / "home"
        self._session: TuningSession | None = None
        try:
            if section.tuning == "auto":
                self._session = TuningSession(
                    section.ranks_per_replica, tuning_options(section), resolve_paths(cache).root
                )
                self._session.open()
            self.engine = self._start()
        except BaseException:
            self.close()
            raise

    def until_answered(self) -> Mapping[str, float]:
        """Wait for the trial requests, and return the seconds of the start.

        The engine starts anew where a tactic took one of its ranks. Raises EngineError.
        """
        if self._session is None:
            self._wait()
        else:
            until_tuned(self._session, self._wait)
        return self.engine.result

    def _start(self) -> EngineStart:
        """Start the engine in the home of all its starts."""
        self._starts += 1
        scratch = Path(self._scratch.name) / f"start_{self._starts}"
        tuning = {} if self._session is None else self._session.variables(scratch / "told")
        return EngineStart(
            self._section,
            self._home,
            scratch,
            {**self._environ, **tuning},
            purpose="record",
            stays=True,
            starter=self._starter,
            reason_to_end=None if self._session is None else lambda: self._tuning_ends_it,
        )

    def _wait(self) -> None:
        """Wait for one start, the first or a further one."""
        if self.engine.is_over:
            self.engine = self._start()
        self.engine.until_answered(self._section.start_deadline)

    def allot(self, asked: AllotTasks) -> TasksAllotted:
        """Exchange tasks and rows with another replica, from any thread while the start is waited for."""
        if self._session is None:
            return TasksAllotted("over")
        return self._session.allot(asked)

    @property
    def stage(self) -> str:
        """Return what the engine is at, and its tuning where there is one."""
        if self._session is None or not self._session.conductor.classes:
            return self.engine.stage
        return f"{self.engine.stage}; {self._session.stage}"

    @property
    def _tuning_ends_it(self) -> str:
        if self._session is None:
            return ""
        return self._session.reason_to_end

    @property
    def tuned(self) -> TunedRequests:
        """Return what was tuned of the engine's own calls, nothing where it asked for none."""
        if self._session is None:
            return TunedRequests()
        tuned = outcome_of(self._session.conductor)
        return replace(tuned, warnings=(*self.engine.notes, *tuned.warnings))

    def capture(self, limit_s: float, contents: tuple[Content, ...] = ()) -> Recorded:
        """End the engine, collect what it has filled, and publish it with further contents into this node's store.

        Raises:
            EngineError: the engine did not end, or its ranks disagree.
            StoreError: the store refuses the artifact.
        """
        started = self.engine.finish(limit_s)
        version = dict(started.records[0].identity)["engine_version"]
        digest = digest_of(self._section, version, device_here())
        tuned = self.tuned
        further = (*contents, *tuned.contents)
        artifact = collect(started, self._home, self._section.shown_args, digest, further, tuned.guard)
        identity = dict(artifact.manifest.key.parts)
        root = resolve_paths(self._cache).root
        directory = engine_store.store_directory(
            root, identity["engine"], identity["engine_version"], artifact.manifest.key.sha256
        )
        generation = NodeStore(directory, modes=self._cache.modes).publish(artifact).generation
        row = RequestRow(identity["engine"], identity["engine_version"], artifact.manifest.key.sha256)
        request_index.note(root, digest, row)
        if self._session is not None:
            self._session.forget_finished()
        return Recorded(started, artifact, directory, generation, tuned)

    def close(self) -> None:
        """End the engine at once and remove its home. A second call does nothing."""
        if hasattr(self, "engine"):
            self.engine.kill()
        if self._session is not None:
            self._session.close()
        self._scratch.cleanup()


def record(section: RealEngineSection, cache: CacheSection, environ: Mapping[str, str]) -> Recorded:
    """Start the engine with empty caches, collect what it fills, and publish it into this node's store.

    Raises:
        EngineError: the engine did not start, or its ranks disagree.
        StoreError: the store refuses the artifact.
    """
    recording = Recording(section, cache, environ)
    try:
        recording.until_answered()
        return recording.capture(section.start_deadline)
    finally:
        recording.close()


def tuning_options(section: RealEngineSection) -> TuningOptions:
    """Return the settings by which a section's own calls are tuned."""
    return TuningOptions(timeouts=TimeoutsSection(task=section.task_deadline))
