"""The words of a run with a real engine: what failed where, what is waited for, who was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_warmup.configs.clause import when
from ray_warmup.warmup.engines.identity.resolved import Resolved, node_differences
from ray_warmup.warmup.engines.machine.state import EngineRun, LauncherState
from ray_warmup.warmup.engines.machine.steps import cannot_sign
from ray_warmup.warmup.machine.commands import Adopt, Call, Failure
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.naming import span
from ray_warmup.warmup.ranks import RankInfo


def name_of_call(call: Call | Adopt) -> str:
    """A call for people."""
    if isinstance(call, Adopt):
        return "handing over its artifact"
    return call.name


def raised_by(run: EngineRun, info: RankInfo, call: Call | Adopt, failure: Failure, now: float) -> str:
    """Describe one launcher's exception, whose message has the engine's stage and last lines."""
    since = now - run.call_began.get(call.call_id, now)
    return f"phase {run.phase}, {info}, {name_of_call(call)} after {since:.1f} s: {failure.kind}: {failure.message}"


def died_again(run: EngineRun, state: LauncherState, reason: str, calls: Sequence[Call | Adopt]) -> str:
    """A launcher's process died once more than is repaired."""
    doing = ", ".join(name_of_call(call) for call in calls) or "nothing"
    return (
        f"phase {run.phase}: {state.info}: its process or node was lost {state.restarts - state.excused + 1} times, "
        f"now at {doing}: {reason}"
    )


def late(run: EngineRun, call: Call | Adopt, statuses: Mapping[int, Status], elapsed: float, limit: float) -> str:
    """A call is over its deadline: who, at what, in which stage of the engine."""
    info = run.ranks[call.rank].info
    stage = _stage(statuses.get(call.rank))
    return (
        f"phase {run.phase}: {info}: {name_of_call(call)} took {elapsed:.1f} s of {limit:g} s allowed "
        f"({run.phase.setting}){when(stage, f', the engine was {stage}')}"
    )


def _stage(status: Status | None) -> str:
    """The stage of a rank's engine, empty where none is known."""
    if status is None:
        return ""
    return status.task_id


def silent(run: EngineRun, state: LauncherState, elapsed: float) -> str:
    """A launcher's heartbeat has stopped."""
    return (
        f"{state.info} is silent in phase {run.phase}: no heartbeat for {elapsed:.1f} s; given up after "
        f"{run.config.timeouts.silence:g} s (timeouts.silence)"
    )


def waiting(run: EngineRun, statuses: Mapping[int, Status], now: float) -> str:
    """One line: phase, since when, and for whom it waits, with the engine's stage."""
    rows = []
    for call in run.calls.values():
        stage = _stage(statuses.get(call.rank))
        rows.append(f"{run.ranks[call.rank].info}: {name_of_call(call)}{when(stage, f' ({stage})')}")
    for state in run.ranks.values():
        if state.is_starting:
            rows.append(f"{state.info}: waiting for a fresh process")
    return f"still {run.phase} after {now - run.phase_began:.0f} s; waiting for {'; '.join(rows) or 'no rank'}"


def lost_node(run: EngineRun, node_id: str, ranks: Sequence[int], now: float) -> str:
    """A node is gone, and the policy ends the run."""
    policy = run.config.cluster.on_node_loss
    despite = {"shrink": ", and no replica is left", "replace": ", which were moved before"}.get(policy, "")
    return (
        f"node {node_id[:8]} ({run.ranks[ranks[0]].info.address}) was lost in phase {run.phase}, "
        f"{now - run.phase_began:.1f} s into it, with ranks {span(ranks)}{despite} (cluster.on_node_loss: {policy}); "
        "what other nodes hold is kept, so run again"
    )


def went_on(run: EngineRun, node_id: str, ranks: Sequence[int], now: float) -> str:
    """A node is gone and the run goes on."""
    policy = run.config.cluster.on_node_loss
    what = "go on without" if policy == "shrink" else "start again on other nodes:"
    return (
        f"node {node_id[:8]} was lost in phase {run.phase}, {now - run.phase_began:.1f} s into it; {what} ranks "
        f"{span(ranks)} (cluster.on_node_loss: {policy})"
    )


def of_versions(run: EngineRun) -> str:
    """Nodes have different versions of the engine, or an empty string."""
    if len({node.engine_version for node in run.nodes.values()}) < 2:
        return ""
    rows = ", ".join(f"node {node_id[:8]}: {node.engine_version}" for node_id, node in run.nodes.items())
    return f"nodes have different versions of {run.config.engine.kind} ({rows}); one run serves one version"


def of_models(run: EngineRun) -> str:
    """Nodes of one device resolve the request to different models or configurations, or an empty string."""
    by_device: dict[str, dict[str, Resolved]] = {}
    for node_id, node in run.nodes.items():
        answers = by_device.setdefault(node.device, {})
        answers[f"node {node_id[:8]}"] = Resolved(node.engine_version, node.identity, {}, node.digests)
    problems: list[str] = []
    for answers in by_device.values():
        problems += node_differences(answers)
    return "; ".join(problems)


def of_signing(run: EngineRun) -> str:
    """Nobody could sign what a class must record, with the first launcher's reason, or an empty string."""
    for group in run.classes.values():
        reasons = [cannot_sign(run, replica) for replica in run.starts_of(group)]
        if group.content is None and reasons and all(reasons):
            return f"nothing is recorded, because it could not be signed on any node of {group.device}: {reasons[0]}"
    return ""


def of_spread(run: EngineRun) -> str:
    """A replica lies on several nodes, which is not covered, or an empty string."""
    for replica in run.starts():
        nodes = run.nodes_of(replica)
        if len(nodes) > 1:
            return (
                f"ranks {span(replica)} of one replica are on {len(nodes)} nodes "
                f"({', '.join(node[:8] for node in nodes)}), which is not covered yet; give cluster.num_nodes and "
                "cluster.ranks_per_node, a multiple of tensor times pipeline parallel size"
            )
    return ""
