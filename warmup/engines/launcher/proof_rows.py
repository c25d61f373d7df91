"""Answer to a proof: how many entries of each kind every rank placed, found and compiled."""

from __future__ import annotations

from collections import Counter

from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.engines.launcher.proof import FACTS, Proof
from ray_warmup.warmup.engines.start.engine_start import Started
from ray_warmup.warmup.messages import engine
from ray_warmup.warmup.store.node_store import NodeStore


def origin_of(store: NodeStore, reach: engine.Reach) -> tuple[str, ...]:
    """Say how far a proof reaches of what a serving engine has left, where it is that."""
    manifest = store.current()[1]
    lack = engine_store.lack_of(manifest)
    if not lack:
        return ()
    what = "the artifact"
    if manifest.strategy == engine_store.COMPLETED:
        what = "the artifact, a proof start has added what it lacked"
    reached = f"a serving engine has left {what}; it was proven in another home of this node alone"
    if reach == "node":
        reached = f"a serving engine on another node has left {what}; it was proven here before engines got it"
    return (reached, lack)


def proven_by(proof: Proof, artifact: str) -> engine.EngineProven:
    """Count each kind of each rank of a proof start."""
    # Ranks of a node share their directories, so the first one stands for all.
    gained = Counter(kind for kind, _ in proof.started.gained)
    rows: list[engine.KindProof] = []
    for told in proof.started.records:
        found, compiled = told.found, told.counts.compiled
        placed = {name: count for name, count in told.placed.items() if name != FACTS}
        for name in sorted({*placed, *found, *compiled, *gained}):
            row = engine.KindProof(
                rank=told.rank,
                kind=name,
                placed=placed.get(name, 0),
                found=found.get(name, 0),
                compiled=max(compiled.get(name, 0), gained[name]),
            )
            rows.append(row)
        gained.clear()
    rows += facts_of(proof.started)
    result = proof.started.result
    return engine.EngineProven(
        artifact=artifact,
        kinds=tuple(rows),
        engine_s=float(result["engine_s"]),
        first_answer_s=float(result["first_answer_s"]),
        problems=proof.problems,
        notes=proof.notes,
    )


def facts_of(started: Started) -> list[engine.KindProof]:
    """Count the facts of models that any process placed, found, and did not find, as those of the first rank."""
    placed = sum(beside.placed.get(FACTS, 0) for beside in started.besides)
    found = sum(beside.found for beside in started.besides)
    inspected = sum(len(beside.inspected) for beside in started.besides)
    if not any((placed, found, inspected)):
        return []
    return [engine.KindProof(started.records[0].rank, FACTS, placed, found, inspected)]
