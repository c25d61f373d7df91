"""A run, whatever its end, as a `WarmupReport`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from ray_warmup.warmup.machine.reports.on_disk import share
from ray_warmup.warmup.machine.reports.task_reports import task_reports
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import ClassState, Run
from ray_warmup.warmup.report import (
    CacheKindReport,
    ClassReport,
    GuardReport,
    RankReport,
    WarmupReport,
)


def summarize(run: Run) -> WarmupReport:
    """The report of a run as it stands."""
    on_disk = None
    if run.phase.is_final:
        on_disk = share(run)
    return WarmupReport(
        run_id=run.run_id,
        config=run.config.model_dump(mode="json"),
        classes=tuple(_class(run, rank_class) for rank_class in run.classes.values()),
        ranks=tuple(_rank(run, state) for _, state in sorted({**run.ranks, **run.removed}.items())),
        files=tuple(run.files),
        phases=_rounded(run.seconds),
        warnings=tuple(run.warnings),
        error=run.error,
        on_disk=on_disk,
    )


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {str(phase): round(taken, 4) for phase, taken in seconds.items()}


def _rank(run: Run, state: RankState) -> RankReport:
    entries = hits = misses = 0
    if state.load is not None:
        entries, hits, misses = state.load.entries, state.load.hits, len(state.load.misses)
    engine = None
    if state.engine is not None:
        engine = state.engine.report
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
        digest=state.loaded_digest,
        entries=entries,
        hits=hits,
        misses=misses,
        peak_bytes=state.peak_bytes,
        phases=_rounded(state.seconds),
        engine=engine,
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
    reached: str = run.phase
    if run.phase is Phase.FAILED:
        reached = next(reversed(run.seconds), Phase.PROBING)
    return str(reached).lower()


def _role(run: Run, rank: int) -> str:
    for rank_class in run.classes.values():
        if rank == rank_class.leader:
            return "leader"
        if rank in rank_class.writers.values():
            return "writer"
    return "follower"


def _class(run: Run, rank_class: ClassState) -> ClassReport:
    digests = {run.ranks[rank].loaded_digest for rank in rank_class.ranks}
    digest = None
    if len(digests) == 1:
        (digest,) = digests
    decisions = [str(verdict.decision) for verdict in rank_class.verdicts.values()]
    outcomes = [result.outcome for result in rank_class.results.values()]
    dropped = len(outcomes) - outcomes.count("tuned")
    for refused in ("slower", "wrong", "crashed"):
        dropped += decisions.count(refused)
    return ClassReport(
        key=rank_class.key,
        parts=rank_class.parts,
        leader=rank_class.leader,
        ranks=tuple(rank_class.ranks),
        digest=digest,
        tasks=len(rank_class.tasks),
        measured=rank_class.measured,
        measuring_s=round(sum(result.elapsed_s for result in rank_class.results.values()), 3),
        reused=len(rank_class.results) - rank_class.measured,
        kept=len(rank_class.results) - dropped,
        dropped=dropped,
        strategy=rank_class.strategy,
        hit=rank_class.is_hit,
        guard=_guard(rank_class, decisions),
        built={rank: names for rank, names in sorted(rank_class.modules.built.items()) if names},
        received=tuple(rank_class.modules.received),
        skipped=tuple(rank_class.skips),
        kinds=_kinds(rank_class),
        task_reports=task_reports(rank_class),
    )


def _kinds(rank_class: ClassState) -> tuple[CacheKindReport, ...]:
    """Sum up by kind what the artifact holds and what its writers did with it."""
    blobs, sizes = Counter[str](), Counter[str]()
    received, files, seconds = Counter[str](), Counter[str](), dict[str, float]()
    if rank_class.header is not None:
        for row in rank_class.header.blobs:
            blobs[row.kind] += 1
            sizes[row.kind] += row.bytes
    for done in rank_class.installed:
        received.update(done.received)
        files.update(done.counts)
        for kind, taken in done.seconds.items():
            seconds[kind] = seconds.get(kind, 0.0) + taken
    rows = []
    for kind in sorted({*blobs, *received, *seconds}):
        of_kind = CacheKindReport(
            kind=kind,
            blobs=blobs[kind],
            bytes=sizes[kind],
            received_bytes=received[kind],
            installed=files[kind],
            install_s=round(seconds.get(kind, 0.0), 4),
        )
        rows.append(of_kind)
    return tuple(rows)


def _guard(rank_class: ClassState, decisions: list[str]) -> GuardReport:
    if not rank_class.results:
        return GuardReport(state="off")
    if not decisions:
        return GuardReport(state="unguarded")
    ratios = [verdict.ratio for verdict in rank_class.verdicts.values()]
    counts: dict[str, int] = {name: decisions.count(name) for name in GuardReport.model_fields if name in decisions}
    return GuardReport(
        state="guarded",
        geomean=math.exp(sum(map(math.log, ratios)) / len(ratios)),
        worst=min(ratios),
        **counts,
    )
