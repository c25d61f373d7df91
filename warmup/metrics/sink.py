"""Destination of this process' values: nowhere, until something that exports them is put in place."""

from __future__ import annotations

import logging
from typing import Protocol

from ray_warmup.warmup.metrics.metric import Sample

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Destination of values."""

    def record(self, sample: Sample) -> None:
        """Take one value over."""


class Nowhere:
    """Keeps nothing, for a process that nobody scrapes."""

    def record(self, sample: Sample) -> None:
        """Do nothing."""


_current: Sink = Nowhere()


def use(sink: Sink) -> None:
    """Send this process' values there from now on."""
    global _current
    _current = sink


def record(*samples: Sample) -> None:
    """Hand values over.

    Never raises, because no step of a run or of an engine may fail for a metric.
    """
    for sample in samples:
        try:
            _current.record(sample)
        except Exception as error:  # whatever an exporter raises
            logger.info("%s is not exported: %s: %s", sample.metric.name, type(error).__name__, error)
