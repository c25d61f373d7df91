"""A metric and one value of it, by Prometheus' rules for names, units and labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MetricKind = Literal["counter", "gauge", "histogram"]
Unit = Literal["seconds", "bytes", "ratio", ""]
"""Base units only. Empty for a plain count."""
EXPORT_PREFIX = "ray_"
"""Ray puts this before the name of every metric that it exports."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    """As Ray is given it, so without EXPORT_PREFIX."""
    kind: MetricKind
    unit: Unit
    text: str
    """What it counts, for people."""
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, ascending."""

    def __post_init__(self) -> None:
        for word in (self.name, *self.labels):
            if not _NAME.fullmatch(word):
                raise ValueError(f"{word}: a name has lower case letters, digits and underscores only")
        ending = f"_{self.unit}" if self.unit else ""
        if self.kind == "counter":
            ending += "_total"
        if not self.name.endswith(ending):
            raise ValueError(f"{self.name}: a {self.kind} of this unit ends in {ending}")
        if (self.kind == "histogram") != bool(self.buckets):
            raise ValueError(f"{self.name}: a histogram, and nothing else, has buckets")

    @property
    def exported(self) -> str:
        """Name of the metric at the endpoint that Prometheus scrapes."""
        return EXPORT_PREFIX + self.name

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the metric's series at that endpoint."""
        if self.kind != "histogram":
            return (self.exported,)
        return tuple(self.exported + ending for ending in ("_bucket", "_sum", "_count"))

    def sample(self, value: float, **labels: str) -> Sample:
        """Return a value of this metric. Raises ValueError for other labels than its own."""
        if set(labels) != set(self.labels):
            raise ValueError(f"{self.name}: labels {sorted(labels)}, must be {sorted(self.labels)}")
        return Sample(self, value, labels)


@dataclass(frozen=True, slots=True)
class Sample:
    """Growth of a counter, present value of a gauge, or one observation of a histogram."""

    metric: Metric
    value: float
    labels: Mapping[str, str]
