"""Record and prove an engine on this node: the two starts that a run makes on every node, without Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray_warmup.configs.engine_schema import RealEngineSection
from ray_warmup.configs.schema import CacheSection, TimeoutsSection
from ray_warmup.warmup.artifact.artifact import Artifact, Content
from ray_warmup.warmup.caches import engine_kinds
from ray_warmup.warmup.engines.artifacts import engine_store, request_index
from ray_warmup.warmup.engines.artifacts.rank_record import RankRecord
from ray_warmup.warmup.engines.artifacts.request_digest import device_here, digest_of
from ray_warmup.warmup.engines.artifacts.request_index import RequestRow
from ray_warmup.warmup.engines.launcher.collecting import collect
from ray_warmup.warmup.engines.start.engine_start import EngineStart, Started, launch
from ray_warmup.warmup.engines.start.starter import Starter
from ray_warmup.warmup.engines.tuning.engine_table import problems_of as table_problems
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.outcome import TunedRequests, outcome_of
from ray_warmup.warmup.engines.tuning.session import TuningSession
from ray_warmup.warmup.engines.tuning.starts import until_tuned
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore

UNPROVABLE = {"torch_compile": "vLLM's CPU build saves ahead-of-time files and never loads one"}
"""Kinds whose hit cannot be seen on a processor."""
FACTS = engine_kinds.MODELINFOS.name
SHOWN = 3
"""Names of compiled things in one problem."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded start and where its artifact was published."""

    started: Started
    artifact: Artifact
    store: Path
    generation: int
    tuned: TunedRequests = field(default_factory=TunedRequests)
    """What was tuned of the engine's own calls."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A start in an empty home that had to use what the node holds."""

    started: Started
    problems: tuple[str, ...]
    """Reasons why the proof does not hold, empty if no rank compiled anything."""
    notes: tuple[str, ...] = ()
    """Kinds that were compiled and that no start of this kind can prove, with the reason."""

    @property
    def holds(self) -> bool:
        """Return True if every rank placed an artifact and compiled nothing."""
        return not self.problems


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
        return outcome_of(self._session.conductor)

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


def prove(
    section: RealEngineSection,
    cache: CacheSection,
    environ: Mapping[str, str],
    starter: Starter | None = None,
    on_start: Callable[[EngineStart], None] | None = None,
) -> Proof:
    """Start the engine in an empty home with what this node holds, and require that nothing is compiled.

    `on_start` is told of the start as soon as it runs.

    Raises:
        EngineError: the engine did not start; with the reason where this node holds nothing that fits.
    """
    root = resolve_paths(cache).root
    with tempfile.TemporaryDirectory(prefix="ray-warmup-prove-") as scratch:
        started = launch(
            section,
            Path(scratch) / "home",
            Path(scratch) / "start",
            {**environ, "RAY_WARMUP_CACHE_ROOT": str(root)},
            purpose="prove",
            starter=starter,
            on_start=on_start,
        )
    return Proof(started, tuple(problems_of(started)), tuple(notes_of(started)))


def problems_of(started: Started) -> list[str]:
    """List why a start is no proof: nothing was placed, the warmup did not end, or something was compiled."""
    gained: dict[str, list[str]] = {}
    for kind, name in started.gained:
        gained.setdefault(kind, []).append(name)
    problems: list[str] = []
    for record in started.records:
        problems += _problems_of_rank(record)
        if engine_kinds.TRITON.name in record.counts.compiled:
            gained.pop(engine_kinds.TRITON.name, None)  # told by the rank
    for kind, names in sorted(gained.items()):
        problems.append(f"{kind}: {len(names)} compiled: {', '.join(names[:SHOWN])}")
    inspected = [name for beside in started.besides for name in beside.inspected]
    if inspected:
        names = list(dict.fromkeys(inspected))
        problems.append(f"{FACTS}: {len(names)} inspected anew: {', '.join(names[:SHOWN])}")
    return problems


def notes_of(started: Started) -> list[str]:
    """Name the kinds that were compiled on a processor because nothing can find them there."""
    compiled: set[str] = set()
    for record in started.records:
        if not _has_gpu(record):
            compiled.update(record.counts.compiled)
    return [f"{kind} is carried and not proven: {UNPROVABLE[kind]}" for kind in sorted(compiled & set(UNPROVABLE))]


def _has_gpu(record: RankRecord) -> bool:
    return dict(record.identity)["cuda"] != ""


def _problems_of_rank(record: RankRecord) -> list[str]:
    problems = []
    if record.lookup != "hit":
        problems.append(f"rank {record.rank}: nothing was placed: {record.lookup}")
    if not record.is_warm:
        problems.append(f"rank {record.rank}: the engine's warmup did not end")
    for name, why in sorted(record.deaf.items()):
        problems.append(f"rank {record.rank}: {name} cannot be heard: {why}")
    if record.table is not None:
        problems += table_problems(record.table, record.rank)
    watched = {watch.kind for watch in record.watched} - {engine_kinds.TRITON.name}
    for kind, count in record.counts.compiled.items():
        if kind not in watched and (_has_gpu(record) or kind not in UNPROVABLE):
            names = [name for name in record.counts.names if name.startswith(f"{kind}: ")]
            problems.append(f"rank {record.rank}: {kind}: {count} compiled: {', '.join(names[:SHOWN])}")
    return problems


def tuning_options(section: RealEngineSection) -> TuningOptions:
    """Return the settings by which a section's own calls are tuned."""
    return TuningOptions(timeouts=TimeoutsSection(task=section.task_deadline))
