"""The part of a trial start that is the same for every engine, from the first trial request to the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.engines.front_end.child_request import ChildRequest, Stage, wait_for, write_whole
from ray_warmup.warmup.engines.front_end.trial_batch import TrialBatch

Generate = Callable[[TrialBatch], Sequence[Sequence[int]]]
"""Answers one batch: the token ids of each row."""


@dataclass(frozen=True, slots=True)
class StartTimes:
    """Moments of a start, in seconds of `time.monotonic`."""

    began: float
    imported: float
    ready: float


def answer_and_stay(
    times: StartTimes,
    request: ChildRequest,
    result_path: Path,
    stage: Stage,
    batches: Sequence[TrialBatch],
    generate: Generate,
) -> None:
    """Answer the trial requests, write the result, and return when the launcher wants the engine to end.

    Raises RuntimeError for a request without an answer.
    """
    first, answered = answer_all(batches, generate, stage)
    result = {
        "import_s": times.imported - times.began,
        "engine_s": times.ready - times.imported,
        "first_answer_s": first,
        "requests": answered,
        "total_s": time.monotonic() - times.began,
    }
    stage.write("waiting for the launcher")
    write_whole(result_path, result)
    if request.stays_until is not None:
        wait_for(Path(request.stays_until))
    stage.write("shutting down")


def answer_all(batches: Sequence[TrialBatch], generate: Generate, stage: Stage) -> tuple[float, int]:
    """Answer every trial batch, and return the seconds of the first batch and the number of requests."""
    first, answered = 0.0, 0
    for number, batch in enumerate(batches, 1):
        stage.write(f"answering batch {number} of {len(batches)} of the trial requests")
        began = time.monotonic()
        outputs = generate(batch)
        if any(not tokens for tokens in outputs):
            raise RuntimeError(f"a trial request was answered with no token: {batch}")
        first = first or time.monotonic() - began
        answered += len(outputs)
    return first, answered
