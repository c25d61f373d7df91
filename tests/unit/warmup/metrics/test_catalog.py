"""The catalog of metrics: names by Prometheus' conventions, labels, and what refuses others."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.metrics import catalog, sink
from ray_warmup.warmup.metrics.metric import Metric, Sample


def test_names_are_unique_and_have_their_units() -> None:
    """Every name is one of its own, below one prefix, with a text for people."""
    names = [metric.name for metric in catalog.CATALOG]
    assert len(names) == len(set(names)) > 15
    for metric in catalog.CATALOG:
        assert metric.name.startswith("warmup_")
        assert metric.exported.startswith("ray_warmup_")
        assert metric.text.endswith(".")


def test_every_metric_of_the_module_is_in_the_catalog() -> None:
    """A metric that is defined and not entered would be in no test and no documentation."""
    defined = [value for value in vars(catalog).values() if isinstance(value, Metric)]
    assert sorted(metric.name for metric in defined) == sorted(metric.name for metric in catalog.CATALOG)


@pytest.mark.parametrize(
    ("name", "kind", "unit", "buckets", "words"),
    [
        ("warmup_runs", "counter", "", (), "ends in _total"),
        ("warmup_phase_ms_total", "counter", "seconds", (), "ends in _seconds_total"),
        ("warmup_room", "gauge", "bytes", (), "ends in _bytes"),
        ("warmup_wait_seconds", "histogram", "seconds", (), "has buckets"),
        ("warmup_age_seconds", "gauge", "seconds", (1.0,), "has buckets"),
        ("warmup-runs_total", "counter", "", (), "lower case letters"),
    ],
)
def test_a_name_against_the_conventions_is_refused(name: str, kind, unit, buckets, words: str) -> None:
    """Unit and kind are in the name, as Prometheus wants it."""
    with pytest.raises(ValueError, match=words):
        Metric(name, kind, unit, "Text.", (), buckets)


def test_a_sample_has_exactly_its_labels() -> None:
    """A label that is missing or unknown would make another series."""
    assert catalog.RUNS.sample(1, work="a", outcome="ready").labels == {"work": "a", "outcome": "ready"}
    with pytest.raises(ValueError, match="warmup_runs_total: labels"):
        catalog.RUNS.sample(1, work="a")


def test_the_work_of_a_run_is_the_same_for_id_and_coordinator() -> None:
    """Equal requests share their series; run ids do not make new ones."""
    assert catalog.work_of("bee57bff82016e2b-20261127T234007-4c32") == "bee57bff8201"
    assert catalog.work_of("warmup-bee57bff82016e2b") == "bee57bff8201"
    assert catalog.work_of("engine-0123456789abcdef-20261127T234007-4c32") == "0123456789ab"
    assert catalog.work_of("") == "unknown"


def test_a_sink_that_raises_costs_nothing() -> None:
    """A step of an engine goes on whatever its exporter does."""
    seen: list[Sample] = []

    class Failing:
        def record(self, sample: Sample) -> None:
            seen.append(sample)
            raise RuntimeError("no agent")

    sink.use(Failing())
    try:
        sink.record(catalog.REGISTRY_KEYS.sample(3), catalog.REGISTRY_BYTES.sample(4))
    finally:
        sink.use(sink.Nowhere())
    assert [sample.value for sample in seen] == [3, 4]
