"""Record and prove a vLLM on this node: the two starts that a run makes on every node, without Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs.engine_schema import VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.engines import engine_store
from ray_warmup.warmup.engines.vllm.collecting import collect
from ray_warmup.warmup.engines.vllm.launch import Home, Started, launch
from ray_warmup.warmup.engines.vllm.recording import RankRecord
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore

UNPROVABLE = {"torch_compile": "vLLM's CPU build saves ahead-of-time files and never loads one"}
"""Kinds whose hit cannot be seen on a processor."""
SHOWN = 3
"""Names of compiled things in one problem."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded start and where its artifact was published."""

    started: Started
    artifact: Artifact
    store: Path
    generation: int


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


def record(section: VllmSection, cache: CacheSection, environ: Mapping[str, str]) -> Recorded:
    """Start the engine with empty caches, collect what it fills, and publish it into this node's store.

    Raises:
        EngineError: the engine did not start, or its ranks disagree.
        StoreError: the store refuses the artifact.
    """
    root = resolve_paths(cache).root
    with tempfile.TemporaryDirectory(prefix="ray-warmup-record-") as scratch:
        home = Home(Path(scratch) / "home")
        started = launch(
            section.args,
            home,
            Path(scratch) / "start",
            environ,
            purpose="record",
            deadline_s=section.start_deadline,
            load_format=load_format(section),
            usage=section.usage,
        )
        artifact = collect(started, home)
    identity = dict(artifact.manifest.key.parts)
    directory = engine_store.store_directory(
        root, identity["engine"], identity["engine_version"], artifact.manifest.key.sha256
    )
    store = NodeStore(directory, modes=cache.modes)
    return Recorded(started, artifact, directory, store.publish(artifact).generation)


def prove(section: VllmSection, cache: CacheSection, environ: Mapping[str, str]) -> Proof:
    """Start the engine in an empty home with what this node holds, and require that nothing is compiled.

    Raises:
        EngineError: the engine did not start; with the reason where this node holds nothing that fits.
    """
    root = resolve_paths(cache).root
    with tempfile.TemporaryDirectory(prefix="ray-warmup-prove-") as scratch:
        started = launch(
            section.args,
            Home(Path(scratch) / "home"),
            Path(scratch) / "start",
            {**environ, "RAY_WARMUP_CACHE_ROOT": str(root)},
            purpose="prove",
            deadline_s=section.start_deadline,
            load_format=load_format(section),
            usage=section.usage,
        )
    return Proof(started, tuple(problems_of(started)), tuple(notes_of(started)))


def problems_of(started: Started) -> list[str]:
    """List why a start is no proof: nothing was placed, the warmup did not end, or something was compiled."""
    problems = [problem for record in started.records for problem in _problems_of_rank(record)]
    for kind in sorted({kind for kind, _ in started.gained}):
        names = [name for gained, name in started.gained if gained == kind]
        problems.append(f"{kind}: {len(names)} compiled: {', '.join(names[:SHOWN])}")
    return problems


def notes_of(started: Started) -> list[str]:
    """Name the kinds that were compiled on a processor because nothing can find them there."""
    compiled = {kind for record in started.records for kind in record.counts["compiled"] if not _has_gpu(record)}
    return [f"{kind} is carried and not proven: {UNPROVABLE[kind]}" for kind in sorted(compiled & set(UNPROVABLE))]


def _has_gpu(record: RankRecord) -> bool:
    return dict(record.identity)["cuda"] != ""


def _problems_of_rank(record: RankRecord) -> list[str]:
    problems = []
    if record.lookup != "hit":
        problems.append(f"rank {record.rank}: nothing was placed: {record.lookup}")
    if not record.is_warm:
        problems.append(f"rank {record.rank}: the engine's warmup did not end")
    problems += [f"rank {record.rank}: {name} cannot be heard: {why}" for name, why in sorted(record.deaf.items())]
    watched = {watch.kind for watch in record.watched}
    for kind, count in record.counts["compiled"].items():
        if kind not in watched and (_has_gpu(record) or kind not in UNPROVABLE):
            names = [name for name in record.counts["names"] if name.startswith(f"{kind}: ")]
            problems.append(f"rank {record.rank}: {kind}: {count} compiled: {', '.join(names[:SHOWN])}")
    return problems


def load_format(section: VllmSection) -> str:
    """Return vLLM's name for the weights that are asked for."""
    return "dummy" if section.weights == "dummy" else "auto"
