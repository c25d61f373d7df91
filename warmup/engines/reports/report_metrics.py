"""Values of a run with a real engine that has ended, from its report."""

from __future__ import annotations

from collections.abc import Iterator

from ray_warmup.warmup.engines.reports.report import EngineReport, KindReport
from ray_warmup.warmup.metrics import catalog
from ray_warmup.warmup.metrics.metric import Sample


def samples_of(report: EngineReport) -> Iterator[Sample]:
    """Yield what a run adds to the counters."""
    work = catalog.work_of(report.run_id)
    yield catalog.RUNS.sample(1, work=work, outcome="ready" if report.ready else "failed")
    for phase, seconds in report.phases.items():
        yield catalog.PHASE_SECONDS.sample(seconds, work=work, phase=phase)
    yield catalog.REQUESTS_RECORDED.sample(report.recorded_requests, work=work)
    for node in report.nodes:
        for row in node.kinds:
            yield from _of_kind(row, work)


def _of_kind(row: KindReport, work: str) -> Iterator[Sample]:
    """Yield the hits and misses of one proof start. Without one there are none."""
    if row.found is not None:
        yield catalog.LOOKUPS.sample(row.found, work=work, kind=row.kind, result="hit")
    if row.compiled is not None:
        yield catalog.LOOKUPS.sample(row.compiled, work=work, kind=row.kind, result="miss")
