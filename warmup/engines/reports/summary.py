"""The report of a run with a real engine, from what its machine knows."""

from __future__ import annotations

import json
from dataclasses import replace

from pydantic import JsonValue

from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.engines.machine.state import EngineClass, EngineRun
from ray_warmup.warmup.engines.machine.steps import needed_proofs
from ray_warmup.warmup.engines.reports.report import EngineReport, KindReport, NodeReport, Proven
from ray_warmup.warmup.messages.engine import EngineContent, EngineProven, KindProof


def summarize(run: EngineRun) -> EngineReport:
    """Sum the run up."""
    speakers = run.speakers()
    contents = [group.content for group in run.classes.values() if group.content is not None]
    cold = contents[0].engine_s if contents else 0.0
    return EngineReport(
        run_id=run.run_id,
        config=shown(run.config),
        phases=dict(run.seconds),
        nodes=tuple(_node(run, node, rank) for node, rank in speakers.items()),
        recorded_engine_s=cold or None,
        error=run.error,
        is_refused=run.is_refused,
        warnings=tuple(run.warnings),
        recorded_requests=run.recorded_requests,
        tuned_tasks=run.tuned_tasks,
        tuned_elsewhere=run.tuned_elsewhere,
        tuning_notes=tuple(dict.fromkeys(run.tuning_notes)),
    )


def shown(config: EngineRunConfig) -> dict[str, JsonValue]:
    """The request as plain values, without secrets."""
    document: dict[str, JsonValue] = json.loads(config.model_dump_json())
    document["engine"] = {**json.loads(config.engine.model_dump_json()), "args": config.engine.shown_args}
    return document


def _node(run: EngineRun, node: str, rank: int) -> NodeReport:
    info = run.ranks[rank].info
    group = run.class_of_rank(rank)
    if group is None or group.content is None:
        return NodeReport(node, info.address, "", "", (), "no", None, None, ())
    content = group.content
    launcher = next((replica[0] for replica in run.starts_of(group) if node in run.nodes_of(replica)), None)
    made = None
    if launcher is not None:
        made = group.proofs.get(launcher)
    row = NodeReport(
        node_id=node,
        address=info.address,
        role=run.roles.get(node, ""),
        key_sha256=content.key_sha256,
        kinds=_kinds(content, made),
        proven=_proven(run, group, content, launcher, made),
        engine_s=None,
        first_answer_s=None,
        problems=(),
    )
    proof = made
    if proof is None and run.nodes[node].is_proven:
        proof = run.nodes[node].proof
    if proof is None:
        return row
    return replace(
        row,
        engine_s=proof.engine_s,
        first_answer_s=proof.first_answer_s,
        problems=proof.problems,
        notes=proof.notes,
    )


def _proven(
    run: EngineRun, group: EngineClass, content: EngineContent, launcher: int | None, made: EngineProven | None
) -> Proven:
    if made is not None:
        if made.problems:
            return "no"
        return "now"
    needed = [replica[0] for replica in needed_proofs(run, group, content)]
    if launcher is None or launcher in needed:
        return "no"
    if run.config.engine.proof == "off":
        return "off"
    own = next(replica for replica in run.starts_of(group) if replica[0] == launcher)
    if all(run.nodes[node].is_proven for node in run.nodes_of(own)):
        return "before"
    if all(rank in group.proofs for rank in needed):
        return "elsewhere"
    return "no"


def _kinds(content: EngineContent, proof: EngineProven | None) -> tuple[KindReport, ...]:
    """Join what was recorded, what is carried and what a proof start counted, by rank and kind."""
    recorded: dict[tuple[int, str], int] = {}
    counted: dict[tuple[int, str], KindProof] = {}
    carried: dict[str, int] = {}
    keys: set[tuple[int, str]] = set()
    for told in content.recorded:
        recorded[told.rank, told.kind] = told.count
    for told in content.carried:
        carried[told.kind] = told.count
        keys.add((0, told.kind))
    if proof is not None:
        for seen in proof.kinds:
            counted[seen.rank, seen.kind] = seen
    rows = []
    for rank, kind in sorted(keys | recorded.keys() | counted.keys()):
        row = KindReport(rank, kind, recorded.get((rank, kind), 0), carried.get(kind, 0))
        if proof is not None:
            seen = counted.get((rank, kind), KindProof(rank, kind, 0, 0, 0))
            row = replace(row, placed=seen.placed, found=seen.found, compiled=seen.compiled)
        if any((row.recorded, row.carried, row.placed, row.found, row.compiled)):
            rows.append(row)
    return tuple(rows)
