"""A run, whatever its end, as a `WarmupReport`."""

from __future__ import annotations

import math

from ray_warmup.warmup.machine.on_disk import share
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.state import ClassState, RankState, Run
from ray_warmup.warmup.report import (
    ClassReport,
    GuardReport,
    RankReport,
    WarmupReport,
)


def summarize(run: Run) -> WarmupReport:
    """The report of a run as it stands."""
    return WarmupReport(
        run_id=run.run_id,
        config=run.config.model_dump(mode="json"),
        classes=tuple(_class(run, rank_class) for rank_class in run.classes.values()),
        ranks=tuple(_rank(run, state) for _, state in sorted({**run.ranks, **run.removed}.items())),
        files=tuple(run.files),
        phases={str(phase): round(seconds, 4) for phase, seconds in run.seconds.items()},
        warnings=tuple(run.warnings),
        error=run.error,
        on_disk=share(run) if run.phase.is_final else None,
    )


def _rank(run: Run, state: RankState) -> RankReport:
    load = state.load
    return RankReport(
        rank=state.info.rank,
        local_rank=state.info.local_rank,
        node_rank=state.info.node_rank,
        node_id=state.info.node_id,
        address=state.info.address,
        gpu_ids=state.info.gpu_ids,
        device=state.device,
        role=_role(run, state.info.rank),
        state=_state(run, state),
        digest=None if load is None else load.digest,
        entries=0 if load is None else load.entries,
        hits=0 if load is None else load.hits,
        misses=0 if load is None else len(load.misses),
        peak_bytes=state.peak_bytes,
        phases={str(phase): round(seconds, 4) for phase, seconds in state.seconds.items()},
        engine=None if state.engine is None else state.engine.report,
        error=state.error,
        stack=state.stack,
        host=state.info.host,
    )


def _state(run: Run, state: RankState) -> str:
    if state.info.rank in run.removed:
        return "removed"
    if state.error is not None:
        return "failed"
    if not state.is_alive:
        return "lost"
    if run.phase is Phase.READY:
        return "ready"
    reached = next(reversed(run.seconds), Phase.PROBING) if run.phase is Phase.FAILED else run.phase
    return str(reached).lower()


def _role(run: Run, rank: int) -> str:
    for rank_class in run.classes.values():
        if rank == rank_class.leader:
            return "leader"
        if rank in rank_class.writers.values():
            return "writer"
    return "follower"


def _class(run: Run, rank_class: ClassState) -> ClassReport:
    loads = [run.ranks[rank].load for rank in rank_class.ranks]
    digests = {None if load is None else load.digest for load in loads}
    decisions = [str(verdict.decision) for verdict in rank_class.verdicts.values()]
    tuned = sum(result.outcome == "tuned" for result in rank_class.results.values())
    dropped = (
        sum(decision in ("slower", "wrong", "crashed") for decision in decisions) + len(rank_class.results) - tuned
    )
    return ClassReport(
        key=rank_class.key,
        parts=rank_class.parts,
        leader=rank_class.leader,
        ranks=tuple(rank_class.ranks),
        digest=digests.pop() if len(digests) == 1 else None,
        tasks=len(rank_class.tasks),
        measured=rank_class.measured,
        reused=len(rank_class.results) - rank_class.measured,
        kept=len(rank_class.results) - dropped,
        dropped=dropped,
        strategy=rank_class.strategy,
        hit=rank_class.is_hit,
        guard=_guard(rank_class, decisions),
        built={rank: names for rank, names in sorted(rank_class.modules.built.items()) if names},
        received=tuple(rank_class.modules.received),
        skipped=tuple(rank_class.skips),
    )


def _guard(rank_class: ClassState, decisions: list[str]) -> GuardReport:
    if not rank_class.results:
        return GuardReport(state="off")
    if not decisions:
        return GuardReport(state="unguarded")
    ratios = [verdict.ratio for verdict in rank_class.verdicts.values()]
    counts: dict[str, int] = {name: decisions.count(name) for name in GuardReport.model_fields if name in decisions}
    return GuardReport(
        state="guarded",
        geomean=math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios)),
        worst=min(ratios),
        **counts,
    )
