"""Prove an engine on this node: a start in an empty home that must compile nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs.engine_schema import RealEngineSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.caches import engine_kinds
from ray_warmup.warmup.caches.left_out import why_left_out
from ray_warmup.warmup.engines.artifacts.rank_record import RankRecord
from ray_warmup.warmup.engines.start.engine_start import EngineStart, Started, launch
from ray_warmup.warmup.engines.start.starter import Starter
from ray_warmup.warmup.engines.tuning.engine_table import problems_of as table_problems
from ray_warmup.warmup.store.node_paths import resolve_paths

UNPROVABLE = {"torch_compile": "vLLM's CPU build saves ahead-of-time files and never loads one"}
"""Kinds whose hit cannot be seen on a processor."""
FACTS = engine_kinds.MODELINFOS.name
SHOWN = 3
"""Names of compiled things in one problem."""


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


def prove(
    section: RealEngineSection,
    cache: CacheSection,
    environ: Mapping[str, str],
    starter: Starter | None = None,
    on_start: Callable[[EngineStart], None] | None = None,
    on_end: Callable[[Started, Path], None] | None = None,
) -> Proof:
    """Start the engine in an empty home with what this node holds, and require that nothing is compiled.

    `on_start` is told of the start as soon as it runs, `on_end` of its end and its home, before that is removed.

    Raises:
        EngineError: the engine did not start; with the reason where this node holds nothing that fits.
    """
    root = resolve_paths(cache).root
    with tempfile.TemporaryDirectory(prefix="ray-warmup-prove-") as scratch:
        home = Path(scratch) / "home"
        started = launch(
            section,
            home,
            Path(scratch) / "start",
            {**environ, "RAY_WARMUP_CACHE_ROOT": str(root)},
            purpose="prove",
            starter=starter,
            on_start=on_start,
        )
        if on_end is not None:
            on_end(started, home)
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
            problems.append(f"rank {record.rank}: {kind}: {count} compiled: {', '.join(names[:SHOWN])}{_why(kind)}")
    return problems


def _why(kind: str) -> str:
    """Say of a kind that is not shipped that no start can do without compiling it."""
    reason = why_left_out(kind)
    if not reason:
        return ""
    return f"; this kind is not carried ({reason}), so each start compiles it: engine.proof off runs without a proof"
