"""Gauges of a live run, from the status that its coordinator answers with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ray_warmup.actors.cluster.metrics_export import EVERY_S, RaySink
from ray_warmup.actors.run.status import RunStatus
from ray_warmup.warmup.metrics import catalog, sink
from ray_warmup.warmup.metrics.metric import Sample

RANK_STATES = ("alive", "silent", "starting")


class LiveMetrics:
    """Exports one run's gauges, as often as Ray needs them."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._phase = ""
        sink.use(RaySink())

    def tick(self, status: Callable[[], RunStatus], now: float) -> None:
        """Export the gauges if it is time. `status` is asked only then, since it costs time with many ranks."""
        if self._last is not None and now - self._last < EVERY_S:
            return
        self._last = now
        seen = status()
        sink.record(*samples_of_status(seen, time.time()))
        if self._phase not in ("", seen.phase):
            # Without it two phases would be shown until Ray drops the older one.
            sink.record(catalog.RUN_PHASE.sample(0, work=catalog.work_of(seen.run_id), phase=self._phase))
        self._phase = seen.phase


def samples_of_status(status: RunStatus, clock: float) -> Iterator[Sample]:
    """Yield the gauges of a run. `clock` is the time since the epoch."""
    work = catalog.work_of(status.run_id)
    yield catalog.RUN_START.sample(clock - status.elapsed_s, work=work)
    yield catalog.RUN_PHASE.sample(1, work=work, phase=status.phase)
    counts = dict.fromkeys(RANK_STATES, 0)
    for rank in status.ranks:
        counts[rank.state] = counts.get(rank.state, 0) + 1
    for state, count in counts.items():
        yield catalog.RUN_RANKS.sample(count, work=work, state=state)
    yield catalog.RUN_TASKS.sample(status.done, work=work, state="done")
    yield catalog.RUN_TASKS.sample(status.total - status.done, work=work, state="open")
