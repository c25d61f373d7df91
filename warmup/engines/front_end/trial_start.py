"""The part of a trial start that is the same for every engine, from the first trial request to the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ray_warmup.warmup.engines.front_end.child_request import (
    ChildRequest,
    Stage,
    follow_the_launcher,
    read_request,
    wait_for,
    write_whole,
)
from ray_warmup.warmup.engines.front_end.trial_batch import TrialBatch

Generate = Callable[[TrialBatch], Sequence[Sequence[int]]]
"""Answers one batch: the token ids of each row."""


@dataclass(frozen=True, slots=True)
class TrialStart:
    """One start of an engine, as its child process was asked for it."""

    began: float
    """Moment of `time.monotonic`, before the engine is imported."""
    request: ChildRequest
    stage: Stage
    result_path: Path

    def answer_and_stay(self, imported: float, ready: float, batches: Sequence[TrialBatch], generate: Generate) -> None:
        """Answer the trial requests, write the result, and return when the launcher wants the engine to end.

        Args:
            imported: moment at which the engine was imported.
            ready: moment at which it could answer.
            batches: of the trial requests.
            generate: answers one batch.

        Raises:
            RuntimeError: a request has no answer.
        """
        first, answered = answer_all(batches, generate, self.stage)
        result = {
            "import_s": imported - self.began,
            "engine_s": ready - imported,
            "first_answer_s": first,
            "requests": answered,
            "total_s": time.monotonic() - self.began,
        }
        self.stage.write("waiting for the launcher")
        write_whole(self.result_path, result)
        if self.request.stays_until is not None:
            wait_for(Path(self.request.stays_until))
        self.stage.write("shutting down")


def start_and_answer(start: Callable[[TrialStart], None], request_path: str, result_path: str) -> int:
    """Run one start as this process, which ends with its launcher. Exit code 0 when every request was answered."""
    follow_the_launcher()
    return answer_in_process(start, request_path, result_path)


def answer_in_process(start: Callable[[TrialStart], None], request_path: str, result_path: str) -> int:
    """Run one start in a process that somebody else ends. Exit code 0 when every request was answered."""
    began = time.monotonic()
    path = Path(request_path)
    start(TrialStart(began, read_request(path), Stage(path.parent / "told"), Path(result_path)))
    return 0


def answer_all(batches: Sequence[TrialBatch], generate: Generate, stage: Stage) -> tuple[float, int]:
    """Answer every trial batch, and return the seconds of the first batch and the number of requests."""
    first, answered = 0.0, 0
    for number, batch in enumerate(batches, 1):
        stage.write(f"answering batch {number} of {len(batches)} of the trial requests")
        began = time.monotonic()
        outputs = generate(replace(batch, number=number))
        if any(not tokens for tokens in outputs):
            raise RuntimeError(f"a trial request was answered with no token: {batch}")
        first = first or time.monotonic() - began
        answered += len(outputs)
    return first, answered
