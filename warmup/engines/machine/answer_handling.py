"""Changes that an answer makes in a run with a real engine, and the end of an artifact that was found."""

from __future__ import annotations

from ray_warmup.warmup import remedies
from ray_warmup.warmup.engines.machine.state import EngineClass, EngineRun
from ray_warmup.warmup.machine.commands import Adopt, Call
from ray_warmup.warmup.messages import engine
from ray_warmup.warmup.messages.answers import Answer


def keep(run: EngineRun, call: Call, value: Answer | engine.EngineAnswer) -> None:
    """Keep an answer, unless what it speaks of is no longer the class's artifact."""
    node = run.ranks[call.rank].info.node_id
    if isinstance(value, engine.NodeDescribed):
        _described(run, node, value)
        return
    group = run.class_of_rank(call.rank)
    if group is None:
        return
    match value:
        case engine.EngineRecorded() if group.recorder == call.rank:
            group.is_recorded = True
            run.recorded_requests += value.requests
            run.tuned_tasks += value.tasks
            run.tuned_elsewhere += value.tasks_elsewhere
            run.tuning_notes += value.notes
        case engine.EnginePacked():
            _packed(run, group, call, value)
        case engine.EngineInstalled() if group.content is not None and value.artifact == group.content.artifact:
            _installed(run, group, node)
        case engine.EngineProven() if group.content is not None and value.artifact == group.content.artifact:
            _proven(run, group, call.rank, value)
        case _:
            return


def begin_class(run: EngineRun, device: str) -> None:
    """Make the class of a device from what its nodes hold: the artifact that most of them hold is the class's."""
    group = run.classes[device] = EngineClass(device)
    _take_found(run, group)


def renew(run: EngineRun, call: Call | Adopt, reason: str) -> bool:
    """Give up an artifact that was found because a step with it failed, or return False if it was not found."""
    group = run.class_of_rank(call.rank)
    return group is not None and _renew(run, group, reason)


def _renew(run: EngineRun, group: EngineClass, reason: str) -> bool:
    if not group.is_found or group.is_renewed:
        return False
    group.forget_content()
    group.is_renewed = True
    run.warn(
        f"the artifact that was found does not fit and is recorded anew: {reason.splitlines()[0]}", remedies.IDENTITY
    )
    return True


def _described(run: EngineRun, node: str, value: engine.NodeDescribed) -> None:
    run.nodes[node] = value
    for warning in value.warnings:
        run.warn(f"node {node[:8]}: {warning}", remedies.IDENTITY)
    group = run.classes.get(value.device)
    if group is None:
        if run.classes:  # a node that joined later has another device
            begin_class(run, value.device)
        return
    shared = group.content
    if shared is not None and value.content is not None and value.content.artifact == shared.artifact:
        group.hold(node, value.content)
        run.roles.setdefault(node, "found")


def _take_found(run: EngineRun, group: EngineClass) -> None:
    held = {node: run.nodes[node].content for node in run.nodes_in(group)}
    counts: dict[str, int] = {}
    for content in held.values():
        if content is not None:
            counts[content.artifact] = counts.get(content.artifact, 0) + 1
    if not counts or run.again:
        return
    chosen = max(counts, key=lambda artifact: counts[artifact])  # the first one among equals
    group.needs_proof = True  # unless one of its nodes admits it
    for node, content in held.items():
        if content is not None and content.artifact == chosen:
            group.content, group.is_found = content, True
            group.hold(node, content)
            run.roles[node] = "found"


def _installed(run: EngineRun, group: EngineClass, node: str) -> None:
    group.nodes_with.add(node)
    if group.needs_proof:
        group.unproven_on.add(node)
    else:
        group.unproven_on.discard(node)
    # A node that was sent it only to be told of its proof has found it.
    run.roles.setdefault(node, "installed")


def _proven(run: EngineRun, group: EngineClass, rank: int, value: engine.EngineProven) -> None:
    if value.completed is not None:
        node = run.ranks[rank].info.node_id
        group.replace_content(value.completed, node)
        run.roles[node] = "recorded"
        return
    if value.problems and _renew(run, group, "; ".join(value.problems)):
        return
    group.proofs[rank] = value
    if not value.problems:
        group.admit(run.ranks[rank].info.node_id)


def _packed(run: EngineRun, group: EngineClass, call: Call, value: engine.EnginePacked) -> None:
    if isinstance(call.question, engine.CaptureEngine):
        if group.recorder != call.rank:
            return
        node = run.ranks[call.rank].info.node_id
        group.content, group.header, group.packer = value.content, value.header, call.rank
        group.recorder_node = node
        group.nodes_with = {node}
        run.roles[node] = "recorded"
        group.forget_recording()
        return
    if group.content is None or group.packer != call.rank:
        return
    group.content, group.header = value.content, value.header
