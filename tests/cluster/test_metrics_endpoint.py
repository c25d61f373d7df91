"""Metrics as Prometheus scrapes them: the endpoint of a real raylet's agent, during a run and after it.

A cluster of its own, because the one that tests share collects no metrics: `pytest -m long` runs it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ray_warmup.warmup.metrics import catalog
from ray_warmup.warmup.report import WarmupReport
from tests.own_head import environment_below, own_head
from tests.testbed import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.long]
EXPORT_MS = 500
CONFIG = {
    "cluster": {"ranks_per_node": 2, "gpus_per_rank": 0, "cpus_per_rank": 1, "backend": "cpu"},
    "model": {"name": "qwen3-0.6b", "dtype": "float32"},
    "autotune": {"max_num_batched_tokens": 2, "max_num_seqs": 2},
}
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(port: int) -> Series:
    """Every series of ours at the endpoint: (name, labels of the catalog) -> value."""
    names = {label for metric in catalog.CATALOG for label in metric.labels} | {"le"}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_warmup_"):
                labels = frozenset((name, value) for name, value in sample.labels.items() if name in names)
                found[sample.name, labels] = sample.value
    return found


def value(series: Series, name: str, **labels: str) -> float | None:
    """One series' value, or None."""
    return series.get((name, frozenset(labels.items())))


def follow(run: subprocess.Popen[str], port: int) -> tuple[Series, Series]:
    """Scrape until the driver has ended: every value that was seen, the last one of each, and the last scrape."""
    seen = Series()
    while run.poll() is None:
        seen |= scraped(port)
        time.sleep(0.3)
    time.sleep(3 * EXPORT_MS / 1000)
    last = scraped(port)
    return seen | last, last


@contextmanager
def run_on_a_head() -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A driver with its run on a head with its agent: the process, the endpoint's port, where its report will lie."""
    base = Path(tempfile.mkdtemp(prefix="rwm"))
    environment = environment_below(base)
    environment["RAY_metrics_report_interval_ms"] = str(EXPORT_MS)
    # Long enough for its gauges to be exported and scraped while it is live.
    environment["RAY_WARMUP_TEST_SCRIPT"] = json.dumps({"pause_s": {"tune": 7}})
    config = base / "config.json"
    try:
        with own_head(base, environment, "--num-cpus=2") as address:
            section = CONFIG | {"cluster": CONFIG["cluster"] | {"address": address}}
            config.write_text(json.dumps(section))
            command = [sys.executable, "-m", "tests.metrics_driver", str(config)]
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, cwd=ROOT, text=True) as run:
                assert run.stdout is not None
                yield run, int(run.stdout.readline()), config.with_suffix(".report")
            assert run.returncode == 0
    finally:
        shutil.rmtree(base, ignore_errors=True)


def measured() -> tuple[Series, Series, WarmupReport]:
    """A run, and what its endpoint said."""
    with run_on_a_head() as (run, port, report):
        seen, last = follow(run, port)
        return seen, last, WarmupReport.from_json(report.read_text())


def test_the_endpoint_has_what_the_run_did() -> None:
    """Counters equal the report, also after coordinator and driver are gone; gauges were there while they lived."""
    seen, last, report = measured()
    assert report.ready
    work, (group,) = catalog.work_of(report.run_id), report.classes
    expected: Mapping[tuple[str, str, str], float] = {
        ("ray_warmup_runs_total", "outcome", "ready"): 1,
        ("ray_warmup_tasks_total", "outcome", "kept"): group.kept,
        ("ray_warmup_task_results_total", "origin", "measured"): group.measured,
        ("ray_warmup_phase_seconds_total", "phase", "TUNING"): report.phases["TUNING"],
        ("ray_warmup_phase_seconds_total", "phase", "PLACING"): report.phases["PLACING"],
        ("ray_warmup_moved_bytes_total", "kind", "autotune_configs"): received(group, "autotune_configs"),
    }
    for (name, label, text), wanted in expected.items():
        assert value(last, name, work=work, **{label: text}) == pytest.approx(wanted), (name, text)
    hits = sum(rank.hits for rank in report.ranks)
    assert value(last, "ray_warmup_cache_lookups_total", work=work, kind="table", result="hit") == hits > 0
    assert value(last, "ray_warmup_cache_lookups_total", work=work, kind="store", result="miss") == 1
    assert value(last, "ray_warmup_guard_speedup_ratio_count", work=work, statistic="geomean") == 1
    assert value(last, "ray_warmup_lease_wait_seconds_count", outcome="lead") == 1
    compiled = {"process": "engine-0", "kind": "triton"}
    assert value(last, "ray_warmup_compilations_after_ready_total", source="compiled", **compiled) == 1
    assert value(last, "ray_warmup_compilations_after_ready_total", source="disk", **compiled) == 2
    # Gauges, of the run that is over by now and of the registry, which stays.
    began = value(seen, "ray_warmup_run_start_time_seconds", work=work)
    assert began is not None
    assert abs(began - time.time()) < 600
    assert value(seen, "ray_warmup_run_ranks", work=work, state="alive") == 2
    assert value(seen, "ray_warmup_registry_leases") == 1
    known = {series for metric in catalog.CATALOG for series in metric.series}
    assert {name for name, _ in seen} <= known


def received(group, kind: str) -> float:
    """Bytes of one kind that the report says were sent."""
    return sum(row.received_bytes for row in group.kinds if row.kind == kind)
