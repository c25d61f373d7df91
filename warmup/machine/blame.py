"""The words of a failure: which rank, node, phase, task, for how long, what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_warmup.warmup.machine.commands import Adopt, Call, Failure
from ray_warmup.warmup.machine.state import RankState, Run
from ray_warmup.warmup.ranks import RankInfo


@dataclass(frozen=True, slots=True)
class Status:
    """A rank's last heartbeat, with times on the coordinator's clock."""

    phase: str = ""
    task_id: str = ""
    runner: str = ""
    tactic: str = ""
    since: float = 0.0
    """When it began what it is doing."""
    heard: float = 0.0
    """When the heartbeat arrived."""
    op: str = ""


def raised_by(run: Run, call: Call | Adopt, info: RankInfo, failure: Failure, now: float) -> str:
    """One rank's exception, in full."""
    task = f", task {call.task_id}" if isinstance(call, Call) and call.task_id else ""
    elapsed = now - run.phase_began
    text = f"{info}, phase {run.phase}{task}, {elapsed:.1f} s into the phase: {failure.kind}: {failure.message}"
    return text + (f"\n{failure.traceback.rstrip()}" if failure.traceback else "")


def fold(failures: Mapping[RankInfo, Failure], run: Run, now: float) -> str:
    """Equal failures of many ranks as one paragraph."""
    groups: dict[tuple[str, str], list[str]] = {}
    for info, failure in failures.items():
        task = f", task {failure.task_id}" if failure.task_id else ""
        groups.setdefault((failure.kind, failure.message), []).append(f"{info}{task}")
    paragraphs = []
    for (kind, message), culprits in groups.items():
        who = "; ".join(culprits)
        text = f"phase {run.phase}, after {now - run.phase_began:.1f} s: {who}: {kind}: {message}"
        trace = next((f.traceback for f in failures.values() if (f.kind, f.message) == (kind, message)), "")
        paragraphs.append(text + (f"\n{trace.rstrip()}" if trace else ""))
    return "\n".join(paragraphs)


def died_again(state: RankState, reason: str, calls: Sequence[Call | Adopt]) -> str:
    """One rank's death once more than the policy allows, with these calls in flight."""
    tasks = [call.task_id for call in calls if isinstance(call, Call) and call.task_id]
    text = f"died {state.restarts - state.excused + 1} times, the last time: {reason}"
    return text + (f" (task {', '.join(tasks)})" if tasks else "")


def late_phase(run: Run, statuses: Mapping[int, Status], now: float, limit: float) -> str:
    """A phase is over its deadline: name every rank that it waits for, and what each was doing."""
    waiting: dict[int, list[str]] = {}
    for call in run.calls.values():
        what = "handing over its artifact" if isinstance(call, Adopt) else call.method
        waiting.setdefault(call.rank, []).append(call.task_id or what if isinstance(call, Call) else what)
    for rank, state in run.ranks.items():
        if not state.is_alive:
            place = "on another node" if state.moves else "in its place"
            waiting.setdefault(rank, [f"waiting for a fresh process {place}"])
    rows = [
        f"{_who(run.ranks[rank])}: {', '.join(what)}{_doing(statuses.get(rank), now)}"
        for rank, what in sorted(waiting.items())
    ]
    elapsed = now - run.phase_began
    return (
        f"phase {run.phase} took {elapsed:.1f} s of {limit:.0f} s allowed ({run.phase.setting}); waiting for "
        + "; ".join(rows or ["no rank"])
    )


def lost_node(run: Run, node_id: str, now: float) -> str:
    """A node is gone, and every rank on it."""
    infos = [state.info for state in run.ranks.values() if state.info.node_id == node_id]
    ranks = ", ".join(str(info.rank) for info in infos)
    elapsed = now - run.phase_began
    return (
        f"node {node_id[:8]} ({infos[0].address}) was lost in phase {run.phase}, {elapsed:.1f} s into it, "
        f"with ranks {ranks}{_despite(run, infos)}; run again when it is back, with fewer nodes "
        "(cluster.num_nodes, cluster.world_size), or with another cluster.on_node_loss"
    )


def _despite(run: Run, infos: list[RankInfo]) -> str:
    """Why a policy that would go on does not."""
    policy = run.config.cluster.on_node_loss
    if policy == "shrink":
        return ", and no rank is left (cluster.on_node_loss: shrink)"
    moves = max(run.ranks[info.rank].moves for info in infos)
    return f", which were moved {moves} times already (cluster.on_node_loss: replace)" if policy == "replace" else ""


def went_on(run: Run, node_id: str, ranks: list[int], now: float) -> str:
    """A node is gone and the run goes on: what that means for its ranks."""
    info = (run.ranks.get(ranks[0]) or run.removed[ranks[0]]).info
    policy = run.config.cluster.on_node_loss
    what = {
        "shrink": f"the run goes on without ranks {ranks}",
        "replace": f"ranks {ranks} start again on other nodes, under their numbers but not beside one another",
    }[policy]
    return (
        f"node {node_id[:8]} ({info.address}) was lost in phase {run.phase}, {now - run.phase_began:.1f} s into it; "
        f"{what} (cluster.on_node_loss: {policy})"
    )


def late_task(run: Run, call: Call, status: Status, elapsed: float) -> str:
    """A task is over its deadline."""
    state, limit = run.ranks[call.rank], run.config.timeouts.task
    return (
        f"{_who(state)}, phase {run.phase}, task {call.task_id}, "
        f"runner {status.runner or '?'}, tactic {status.tactic or '?'}: "
        f"for {elapsed:.1f} s of {limit:.0f} s allowed (timeouts.task)"
    )


def silent(run: Run, rank: int, status: Status, elapsed: float) -> str:
    """No heartbeat for a while: what the rank was last heard to do."""
    last = status.task_id or status.phase or "nothing yet"
    tactic = f", runner {status.runner}, tactic {status.tactic}" if status.runner else ""
    return (
        f"{_who(run.ranks[rank])} is silent in phase {run.phase}: no heartbeat for {elapsed:.1f} s "
        f"(timeouts.heartbeat is {run.config.timeouts.heartbeat:g}); last heard: {last}{tactic}"
    )


def _who(state: RankState) -> str:
    """The rank, its place, and the device once it has said so."""
    device = state.description.get("device")
    return f"{state.info} [{device}]" if device else str(state.info)


def _doing(status: Status | None, now: float) -> str:
    if status is None:
        return " (no heartbeat yet)"
    what = f", runner {status.runner}, tactic {status.tactic}" if status.runner else ""
    if not what and status.task_id:
        what = f", at {status.task_id}"
    return f" (last heard {now - status.heard:.1f} s ago{what}, for {now - status.since:.1f} s)"
