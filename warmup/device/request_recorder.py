"""Keep every request that an engine makes to the AutoTuner, and answer each with the default.

No rank waits for a tactic while it records, so a forward with collectives in it goes on as without tuning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray_warmup.warmup.device.autotuner_seams import answered_by_default
from ray_warmup.warmup.device.tuning_request import Captured
from ray_warmup.warmup.workloads.live_request import LiveRequests, live_request

logger = logging.getLogger(__name__)

SKIPPED = "the engine leaves it out of its tuning (skip_ops)"
"""Reason of a request that its engine, or who started it, does not let FlashInfer tune."""


class RequestRecorder:
    """Recorder of an engine's requests.

    A request that cannot be described is named in `problems` and answered all the same.
    """

    def __init__(self, requests: LiveRequests) -> None:
        self.requests = requests
        self.problems: list[str] = []
        self.asked = 0
        self._known: set[tuple[object, ...]] = set()

    @contextmanager
    def recording(self) -> Iterator[RequestRecorder]:
        """Record within the block."""
        with answered_by_default(self._keep):
            yield self

    def _keep(self, request: Captured, buckets: tuple[int, ...], is_skipped: bool) -> None:
        self.asked += 1
        seen = _fingerprint(request)
        if seen in self._known:
            return
        # Before it is described, so that one that cannot be is named once and not per layer.
        self._known.add(seen)
        try:
            kept = live_request(
                request.op, request.runners, request.tuning_config, request.inputs, request.kwargs, buckets
            )
            self.requests.add(kept.left_alone(SKIPPED) if is_skipped else kept)
        except Exception as error:  # the engine's forward goes on whatever an op passes
            problem = f"{request.op} was not recorded: {type(error).__name__}: {error}"
            logger.info("%s", problem)
            self.problems.append(problem[:500])


def _fingerprint(request: Captured) -> tuple[object, ...]:
    """Return a value by which a layer's request equals that of the layer before, cheap enough for every call."""
    forms = tuple(
        (tuple(value.shape), str(value.dtype), tuple(value.stride())) if hasattr(value, "stride") else repr(value)
        for value in request.inputs
    )
    runners = tuple((type(runner).__name__, hash(runner)) for runner in request.runners)
    return request.op, runners, forms, repr(sorted(request.kwargs.items()))
