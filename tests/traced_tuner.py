"""The real tuner of FlashInfer's AutoTuner, which notes its calls and stands still where a script says so.

Nothing of it is changed: each method notes the moment, then does what it always does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.messages.answers import Guarded, Loaded, Replayed
from ray_warmup.warmup.tasks import Contender, GuardVerdict, Skip, Task, TaskResult, Workload
from tests.script import Moments, read_script


def make_traced_tuner(backend: str, options: TunerOptions) -> FlashInferTuner:
    """Factory for `run_warmup(tuner="tests.traced_tuner:make_traced_tuner")`."""
    assert backend == "cpu"
    return TracedTuner("cpu", options)


class TracedTuner(FlashInferTuner):
    """Moments before the calls of `tests/faults/moments.py`."""

    def __init__(self, backend: str, options: TunerOptions) -> None:
        self._moments = Moments(read_script())
        super().__init__("cpu", options)

    def prepare(self, workloads: Sequence[Workload], others: Sequence[Workload] = ()) -> tuple[Skip, ...]:
        self._moments.reach("prepare")
        return super().prepare(workloads, others)

    def missing_modules(self) -> tuple[str, ...]:
        self._moments.reach("missing_modules")
        return super().missing_modules()

    def tune(self, task: Task) -> TaskResult:
        self._moments.reach("tune", task.task_id)
        return super().tune(task)

    def guard(self, task: Task, result: TaskResult, contenders: Sequence[Contender] = ()) -> Guarded:
        self._moments.reach("guard", task.task_id)
        return super().guard(task, result, contenders)

    def table(
        self, results: Sequence[TaskResult], verdicts: Sequence[GuardVerdict], left_out: Sequence[Task] = ()
    ) -> bytes | None:
        self._moments.reach("table")
        return super().table(results, verdicts, left_out)

    def check(self, table: bytes) -> str | None:
        self._moments.reach("check")
        return super().check(table)

    def load(self, path: Path, expected: Sequence[Task]) -> Loaded:
        self._moments.reach("load")
        return super().load(path, expected)

    def replay(self, tasks: Sequence[Task]) -> Replayed:
        self._moments.reach("replay")
        return super().replay(tasks)
