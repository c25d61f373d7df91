"""Metrics by `ray.util.metrics`: what Ray's agent on this node exports at its `--metrics-export-port`.

Ray keeps counters and histograms of processes that have ended, and drops a gauge 20 s after its last value. A process
hands its values over every ten seconds, and once more when it disconnects, so what is counted at a run's end is
counted in the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import ray.util.metrics

from ray_warmup.warmup.metrics import sink
from ray_warmup.warmup.metrics.metric import Metric, Sample

logger = logging.getLogger(__name__)

EVERY_S = 5.0
"""Between two values of a gauge. Ray drops one that was not given for 20 s."""


class RaySink:
    """Sink of a process that is connected to Ray."""

    def __init__(self) -> None:
        # A border: Ray's own metrics, by name.
        self._made: dict[str, Any] = {}

    def record(self, sample: Sample) -> None:
        """Take one value over. Ray refuses to count nothing, so a 0 leaves a counter out."""
        metric, labels = sample.metric, dict(sample.labels)
        made = self._made.get(metric.name)
        if made is None:
            made = self._made[metric.name] = _made(metric)
        if metric.kind == "gauge":
            made.set(sample.value, tags=labels)
        elif metric.kind == "histogram":
            made.observe(sample.value, tags=labels)
        elif sample.value > 0:
            made.inc(sample.value, tags=labels)


def export_metrics() -> None:
    """Export this process' values by Ray from now on."""
    sink.use(RaySink())


def count(samples: Iterable[Sample]) -> None:
    """Export values once, whatever this process' own sink is."""
    exported = RaySink()
    for sample in samples:
        try:
            exported.record(sample)
        except (TypeError, ValueError, RuntimeError) as error:  # a run's report is worth more than its metrics
            logger.warning("%s is not exported: %s -> install ray[default]", sample.metric.name, error)


def _made(metric: Metric) -> Any:
    if metric.kind == "gauge":
        return ray.util.metrics.Gauge(metric.name, metric.text, metric.labels)
    if metric.kind == "histogram":
        return ray.util.metrics.Histogram(metric.name, metric.text, list(metric.buckets), metric.labels)
    return ray.util.metrics.Counter(metric.name, metric.text, metric.labels)
