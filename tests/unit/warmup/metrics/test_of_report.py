"""Metrics of ended runs, from their reports: of tables, and of a real engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from ray_warmup.warmup.engines.reports import report_metrics
from ray_warmup.warmup.engines.reports.report import EngineReport, KindReport, NodeReport
from ray_warmup.warmup.metrics.metric import Sample
from ray_warmup.warmup.metrics.of_report import samples_of
from ray_warmup.warmup.report import CacheKindReport, ClassReport, GuardReport, RankReport, WarmupReport

RUN_ID = "bee57bff82016e2b-20261127T234007-4c32"


def summed(samples: Iterable[Sample]) -> dict[tuple[str, ...], float]:
    """(name, label values without the work) -> sum."""
    found: dict[tuple[str, ...], float] = {}
    for sample in samples:
        assert sample.labels["work"] == "bee57bff8201"
        labels = [value for name, value in sample.labels.items() if name != "work"]
        key = (sample.metric.name, *labels)
        found[key] = found.get(key, 0.0) + sample.value
    return found


def report_of(digests: tuple[str | None, ...] = ("d", "d"), **changes: Any) -> WarmupReport:
    """A run of one class, a rank for each digest."""
    shared = {"local_rank": 0, "node_id": "n", "role": "follower", "state": "ready", "hits": 9, "misses": 1}
    ranks = tuple(RankReport(rank=n, node_rank=n, digest=digest, **shared) for n, digest in enumerate(digests))
    group = {
        "key": "k",
        "parts": {},
        "leader": 0,
        "ranks": tuple(range(len(ranks))),
        "digest": "d",
        "tasks": 10,
        "measured": 6,
        "reused": 4,
        "kept": 7,
        "dropped": 3,
        "strategy": "leader",
        "hit": False,
        "guard": GuardReport(state="guarded", kept=7, slower=2, wrong=1, geomean=1.1, worst=0.99),
        "kinds": (CacheKindReport(kind="triton_cache", received_bytes=5, install_s=0.5),),
    }
    values = {"run_id": RUN_ID, "config": {}, "phases": {"TUNING": 2.5}, "ranks": ranks}
    return WarmupReport(**{**values, "classes": (ClassReport(**{**group, **changes}),)})


def test_a_report_becomes_counts() -> None:
    """Every figure is the report's own."""
    found = summed(samples_of(report_of()))
    expected = {
        ("warmup_runs_total", "ready"): 1,
        ("warmup_phase_seconds_total", "TUNING"): 2.5,
        ("warmup_tasks_total", "kept"): 7,
        ("warmup_tasks_total", "default"): 3,
        ("warmup_task_results_total", "measured"): 6,
        ("warmup_task_results_total", "reused"): 4,
        ("warmup_guard_decisions_total", "slower"): 2,
        ("warmup_guard_speedup_ratio", "geomean"): 1.1,
        ("warmup_guard_speedup_ratio", "worst"): 0.99,
        ("warmup_cache_lookups_total", "store", "miss"): 1,
        ("warmup_cache_lookups_total", "table", "hit"): 18,
        ("warmup_cache_lookups_total", "table", "miss"): 2,
        ("warmup_moved_bytes_total", "triton_cache"): 5,
        ("warmup_cache_install_seconds_total", "triton_cache"): 0.5,
    }
    for key, value in expected.items():
        assert found[key] == pytest.approx(value), key


def test_ranks_with_different_tables_are_counted() -> None:
    """Only where they must agree, and a rank that never loaded is not one that differs."""
    assert ("warmup_divergent_tables_total",) in summed(samples_of(report_of(("d", "e"))))
    assert ("warmup_runs_total", "failed") in summed(samples_of(report_of(("d", "e"))))
    for quiet in (report_of(("d", None)), report_of(("d", "e"), strategy="independent"), report_of()):
        assert ("warmup_divergent_tables_total",) not in summed(samples_of(quiet))


def test_an_engine_report_becomes_counts() -> None:
    """Hits and misses are those of proof starts. A node without one has none."""
    rows = (KindReport(0, "torch_compile", 5, 4, placed=4, found=4, compiled=1), KindReport(1, "triton_cache", 2, 2))
    node = NodeReport("n", "a", "recorded", "k", rows, "now", 10.0, 1.0, ())
    report = EngineReport(f"engine-{RUN_ID}", {}, {"RECORDING": 30.0}, (node,), recorded_requests=8)
    found = summed(report_metrics.samples_of(report))
    assert found == {
        ("warmup_runs_total", "ready"): 1,
        ("warmup_phase_seconds_total", "RECORDING"): 30,
        ("warmup_requests_recorded_total",): 8,
        ("warmup_cache_lookups_total", "torch_compile", "hit"): 4,
        ("warmup_cache_lookups_total", "torch_compile", "miss"): 1,
    }
