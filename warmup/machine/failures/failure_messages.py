"""The words of a failure: which rank, node, phase, task, for how long, what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_warmup.configs.clause import when
from ray_warmup.warmup.machine.commands import Adopt, Call, Failure
from ray_warmup.warmup.machine.naming import NAMED, crowd, span, span_of, without_name
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import Run
from ray_warmup.warmup.messages.values import Heartbeat
from ray_warmup.warmup.ranks import RankInfo

MAX_CAUSES = 8
"""Different failures of one run that are told in full."""


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

    @classmethod
    def of(cls, beat: Heartbeat, now: float) -> Status:
        """A heartbeat that arrives now."""
        return cls(beat.method, beat.task_id, beat.runner, beat.tactic, now - beat.for_s, now, beat.op)


def raised_by(run: Run, call: Call | Adopt, info: RankInfo, failure: Failure, now: float) -> str:
    """One rank's exception, with its traceback."""
    task = when(call.task_id, f", task {call.task_id}")
    elapsed = now - run.phase_began
    text = f"{info}, phase {run.phase}{task}, {elapsed:.1f} s into the phase: {failure.kind}: {failure.message}"
    return text + when(failure.traceback, f"\n{failure.traceback.rstrip()}")


def merge_equal(failures: Mapping[RankInfo, Failure], run: Run, now: float) -> str:
    """Merge equal failures of many ranks into one paragraph.

    Of very many different ones, keep the first and count the others.
    """
    told_of: dict[tuple[str, str], list[tuple[RankInfo, Failure]]] = {}
    for info, failure in failures.items():
        told_of.setdefault((failure.kind, without_name(info, failure.message)), []).append((info, failure))
    since = now - run.phase_began
    paragraphs: list[str] = []
    left: list[RankInfo] = []
    for cause, told in told_of.items():
        if len(paragraphs) < MAX_CAUSES:
            paragraphs.append(_paragraph(run, since, *cause, told))
        else:
            left += dict(told)
    if left:
        num_left = len(told_of) - MAX_CAUSES
        paragraphs.append(f"and {num_left} more causes on ranks {span_of(left)}; the report has each rank's own error")
    return "\n".join(paragraphs)


def _paragraph(run: Run, since: float, kind: str, message: str, told: Sequence[tuple[RankInfo, Failure]]) -> str:
    infos: list[RankInfo] = []
    names: list[str] = []
    trace = ""
    for info, failure in told:
        infos.append(info)
        names.append(f"{info}{when(failure.task_id, f', task {failure.task_id}')}")
        trace = trace or failure.traceback.rstrip()
    text = f"phase {run.phase}, after {since:.1f} s: {crowd(infos, names)}: {kind}: {message}"
    return text + when(trace, f"\n{trace}")


def died_again(state: RankState, reason: str, calls: Sequence[Call | Adopt]) -> str:
    """One rank's death once more than the policy allows, with these calls in flight."""
    tasks = [call.task_id for call in calls if call.task_id]
    text = f"died {state.restarts - state.excused + 1} times, the last time: {reason}"
    return text + when(tasks, f" (task {', '.join(tasks)})")


def late_phase(run: Run, statuses: Mapping[int, Status], now: float, limit: float) -> str:
    """A phase is over its deadline: name the ranks that it waits for, and what each was doing."""
    elapsed = now - run.phase_began
    return (
        f"phase {run.phase} took {elapsed:.1f} s of {limit:g} s allowed ({run.phase.setting}); "
        f"waiting for {waited_for(run, statuses, now)}"
    )


def waited_for(run: Run, statuses: Mapping[int, Status], now: float) -> str:
    """Name the ranks that the run waits for, by their pending work, at most a few per kind."""
    waiting: dict[str, list[int]] = {}
    for rank, what in sorted(_owed(run).items()):
        waiting.setdefault(what, []).append(rank)
    rows = []
    for what, ranks in waiting.items():
        names = [f"{_who(run.ranks[rank])}: {what}{_doing(statuses.get(rank), now)}" for rank in ranks[: NAMED + 1]]
        names += [""] * (len(ranks) - len(names))  # only counted
        rows.append(crowd([run.ranks[rank].info for rank in ranks], names))
    num_left = len(rows[MAX_CAUSES:])
    return "; ".join(rows[:MAX_CAUSES] or ["no rank"]) + when(num_left, f"; and {num_left} other calls")


def _owed(run: Run) -> dict[int, str]:
    """Rank -> what the run waits for on it."""
    owed: dict[int, list[str]] = {}
    for call in run.calls.values():
        owed.setdefault(call.rank, []).append(call.task_id or call.name)
    said = {rank: ", ".join(what) for rank, what in owed.items()}
    for rank, state in run.ranks.items():
        if state.is_alive:
            continue
        place = "in its place"
        if state.moves:
            place = "on another node"
        said.setdefault(rank, f"waiting for a fresh process {place}")
    return said


def lost_node(run: Run, node_id: str, now: float) -> str:
    """A node is gone, and every rank on it."""
    infos = [state.info for state in run.ranks.values() if state.info.node_id == node_id]
    ranks = span_of(infos)
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
    if policy != "replace":
        return ""
    moves = max(run.ranks[info.rank].moves for info in infos)
    return f", which were moved {moves} times already (cluster.on_node_loss: replace)"


def went_on(run: Run, node_id: str, ranks: list[int], now: float) -> str:
    """A node is gone and the run goes on: what that means for its ranks."""
    info = (run.ranks.get(ranks[0]) or run.removed[ranks[0]]).info
    policy = run.config.cluster.on_node_loss
    what = {
        "shrink": f"the run goes on without ranks {span(ranks)}",
        "replace": f"ranks {span(ranks)} start again on other nodes, under their numbers but not beside one another",
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
        f"for {elapsed:.1f} s of {limit:g} s allowed (timeouts.task)"
    )


def silent(run: Run, rank: int, status: Status, elapsed: float, interval: float) -> str:
    """No heartbeat for a while: what the rank was last heard to do."""
    last = status.task_id or status.phase or "nothing yet"
    call = next(iter(run.calls_of.get(rank, {}).values()), None)
    asked = ""
    if isinstance(call, Call):
        asked = f"; asked for {call.task_id or call.name}"
    return (
        f"{_who(run.ranks[rank])} is silent in phase {run.phase}: no heartbeat for {elapsed:.1f} s "
        f"(one is expected every {interval:g} s, timeouts.heartbeat); last heard: {last}{_running(status)}{asked}"
    )


def _who(state: RankState) -> str:
    """The rank, its place, and the device once it has said so."""
    return f"{state.info}{when(state.device, f' [{state.device}]')}"


def _running(status: Status) -> str:
    """The tactic that runs, after a comma."""
    return when(status.runner, f", runner {status.runner}, tactic {status.tactic}")


def _doing(status: Status | None, now: float) -> str:
    if status is None:
        return " (no heartbeat yet)"
    what = _running(status) or when(status.task_id, f", at {status.task_id}")
    return f" (last heard {now - status.heard:.1f} s ago{what}, for {now - status.since:.1f} s)"
