"""Values of a tuning run that has ended, from its report."""

from __future__ import annotations

from collections.abc import Iterator

from ray_warmup.warmup.metrics import catalog
from ray_warmup.warmup.metrics.metric import Sample
from ray_warmup.warmup.report import ClassReport, RankReport, WarmupReport

_DECISIONS = ("kept", "replaced", "slower", "wrong", "crashed", "default")


def samples_of(report: WarmupReport) -> Iterator[Sample]:
    """Yield what a run adds to the counters and histograms."""
    work = catalog.work_of(report.run_id)
    yield catalog.RUNS.sample(1, work=work, outcome="ready" if report.ready else "failed")
    for phase, seconds in report.phases.items():
        yield catalog.PHASE_SECONDS.sample(seconds, work=work, phase=phase)
    for group in report.classes:
        yield from _of_class(group, work)
        yield from _of_digests(group, report.ranks, work)
    for rank in report.ranks:
        yield from _of_rank(rank, work)


def _of_class(group: ClassReport, work: str) -> Iterator[Sample]:
    yield catalog.TASKS.sample(group.kept, work=work, outcome="kept")
    yield catalog.TASKS.sample(group.dropped, work=work, outcome="default")
    yield catalog.TASK_RESULTS.sample(group.measured, work=work, origin="measured")
    yield catalog.TASK_RESULTS.sample(group.reused, work=work, origin="reused")
    result = "hit" if group.hit else "miss"
    yield catalog.LOOKUPS.sample(1, work=work, kind="store", result=result)
    guard = group.guard
    for decision in _DECISIONS:
        yield catalog.GUARD_DECISIONS.sample(getattr(guard, decision), work=work, decision=decision)
    for statistic, ratio in (("geomean", guard.geomean), ("worst", guard.worst)):
        if ratio is not None:
            yield catalog.GUARD_SPEEDUP.sample(ratio, work=work, statistic=statistic)
    for kind in group.kinds:
        yield catalog.MOVED_BYTES.sample(kind.received_bytes, work=work, kind=kind.kind)
        yield catalog.CACHE_SECONDS.sample(kind.install_s, work=work, kind=kind.kind)


def _of_digests(group: ClassReport, ranks: tuple[RankReport, ...], work: str) -> Iterator[Sample]:
    if group.strategy == "independent":
        return
    digests = set()
    for rank in ranks:
        if rank.rank in group.ranks and rank.digest is not None:
            digests.add(rank.digest)
    if len(digests) > 1:
        yield catalog.DIVERGENT.sample(1, work=work)


def _of_rank(rank: RankReport, work: str) -> Iterator[Sample]:
    yield catalog.LOOKUPS.sample(rank.hits, work=work, kind="table", result="hit")
    yield catalog.LOOKUPS.sample(rank.misses, work=work, kind="table", result="miss")
    if rank.engine is None or rank.engine.verification is None:
        return
    checked = rank.engine.verification
    for kind, count in checked.compiled.items():
        yield catalog.LOOKUPS.sample(count, work=work, kind=kind, result="miss")
    for kind, count in checked.loaded.items():
        yield catalog.LOOKUPS.sample(count, work=work, kind=kind, result="hit")
