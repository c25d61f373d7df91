"""Tune one task in this process: every tactic timed once through FlashInfer's own tuning, the choice ours.

FlashInfer picks the smallest single timing and drops the others. Here every timing is kept, and `selection.choose`
decides with a tie band. FlashInfer hides running out of memory and a dead CUDA context, so both are checked for after
each task. Nothing is written to disk.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch

from ray_warmup.warmup.choosing import choose
from ray_warmup.warmup.device.autotuner_seams import capture_call, profiled, tuned_keys
from ray_warmup.warmup.device.cpu_measure import cpu_timing, measure
from ray_warmup.warmup.device.device_context import is_dead, probe_context
from ray_warmup.warmup.device.stopwatch import ContextLost, Stopwatch, Timer
from ray_warmup.warmup.device.tuner import TunerOptions, Watch
from ray_warmup.warmup.device.tuning_request import Attempt, Profiling
from ray_warmup.warmup.errors import DeadContextError, TuningError
from ray_warmup.warmup.families.library import AutoTuner, flashinfer
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, Measurement, Task, TaskOutcome, TaskResult
from ray_warmup.warmup.workloads.base import OpCall

logger = logging.getLogger(__name__)


def cpu_timer(attempt: Attempt, best_s: float) -> list[float]:
    """Wall-clock samples on the CPU."""
    return measure(attempt.run, best_s)


def cuda_timer(attempt: Attempt, best_s: float) -> list[float]:
    """FlashInfer's own CUDA measurement, once: the guard's interleaved timing decides among the best."""
    return [attempt.flashinfer_s()]


@dataclass(frozen=True, slots=True)
class TaskTuner:
    """Tunes tasks on one device, one at a time."""

    device: str
    options: TunerOptions
    on_watch: Callable[[Watch], None]

    def tune(
        self,
        task: Task,
        build: Callable[[], OpCall],
        only: Sequence[Choice] | None = None,
        outline: Callable[[], OpCall] | None = None,
    ) -> TaskResult:
        """Measure the task.

        If memory runs out, free it and measure once more.

        Args:
            task: what to tune.
            build: makes the op call at the task's bucket.
            outline: makes it without values, which takes less; for its keys where there is no memory for more.
            only: measure nothing but these; the result then has all of their timings.

        Raises:
            TuningError: the call itself fails, or the bucket is not one of the op's own.
            DeadContextError: the CUDA context died.
        """
        started = time.perf_counter()
        wanted = None
        if only is not None:
            wanted = frozenset(only)
        result = self._attempt(task, build, wanted, started)
        if result.outcome == "oom":
            logger.info("%s: out of memory, freeing caches and trying once more", task.task_id)
            # Tensors of the failed attempt may hang in the exception's frames, which only the collector frees.
            gc.collect()
            torch.cuda.empty_cache()
            result = self._attempt(task, build, wanted, started)
        if result.outcome == "oom" and not result.keys and outline is not None:
            result = self._named(task, result, outline)
        return result

    def _named(self, task: Task, result: TaskResult, outline: Callable[[], OpCall]) -> TaskResult:
        """Add the keys of a call that could not be made, so that the table gets an entry for its default."""
        try:
            with torch.inference_mode():
                captured = capture_call(outline().run, task.workload.op)
                return replace(
                    result,
                    default_runner=captured.default_runner,
                    keys=captured.file_keys(),
                    policy=captured.policy(),
                )
        except (RuntimeError, MemoryError, TuningError) as error:
            logger.warning(
                "%s: no memory for its inputs either, it will miss the table: %s -> free the device before a run",
                task.task_id,
                error,
            )
            return result

    def _attempt(
        self, task: Task, build: Callable[[], OpCall], only: frozenset[Choice] | None, started: float
    ) -> TaskResult:
        op = task.workload.op
        stopwatch = Stopwatch(
            op,
            self._timer(),
            frozenset(self.options.quarantine),
            self._reporter(task),
            only,
            partial(is_dead, self.device),
        )
        self.on_watch(Watch(op=op, task_id=task.task_id))
        # A winner of an earlier task under the same key would be taken without measuring.
        AutoTuner.get().clear_cache()
        if self._cuda():
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            seen = self._measure(task, build, stopwatch)
        except ContextLost as lost:
            raise DeadContextError(
                f"{task.task_id}: {lost.runner} tactic {lost.tactic} left a dead CUDA context: {lost.error}",
                op=op,
                runner=lost.runner,
                tactic=lost.tactic,
            ) from lost.error
        except (torch.cuda.OutOfMemoryError, MemoryError):
            seen = Profiling(out_of_memory=True)
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            probe_context(self.device, task.task_id)
            raise TuningError(f"{task.task_id}: {type(error).__name__}: {error}", task=task.task_id) from error
        finally:
            self.on_watch(Watch())
        probe_context(self.device, task.task_id)
        try:
            return self._result(task, seen, stopwatch, started)
        finally:
            AutoTuner.get().clear_cache()

    def _measure(self, task: Task, build: Callable[[], OpCall], stopwatch: Stopwatch) -> Profiling:
        with torch.inference_mode(), nullcontext() if self._cuda() else cpu_timing():
            call = build()
            with profiled(task.workload.op, stopwatch) as seen, flashinfer.autotune(tuning_buckets=(task.bucket,)):
                call.run()
        if seen.captured is None:
            raise TuningError(f"{task.task_id}: the call never asked the AutoTuner for {task.workload.op}")
        return seen

    def _result(self, task: Task, seen: Profiling, stopwatch: Stopwatch, started: float) -> TaskResult:
        measurements = stopwatch.measurements()
        outcome = self._outcome(task, seen, measurements)
        chosen = None
        if outcome == "tuned":
            chosen = choose(measurements, self.options.autotune.tie_band)
        # Votes compare all candidates, the guard only the best.
        kept = measurements
        if not stopwatch.only:
            kept = _shortlist(measurements, chosen, self.options.autotune.shortlist)
        result = TaskResult(
            task_id=task.task_id,
            op=task.workload.op,
            bucket=task.bucket,
            outcome=outcome,
            choice=chosen,
            default_runner="",
            keys={},
            policy=None,
            measurements=kept,
            elapsed_s=time.perf_counter() - started,
            peak_bytes=0,
            gpu="",
        )
        if seen.captured is not None:
            keys, policy = seen.captured.file_keys(), seen.captured.policy()
            result = replace(result, default_runner=seen.captured.default_runner, keys=keys, policy=policy)
        if self._cuda():
            peak = int(torch.cuda.max_memory_allocated(self.device))
            result = replace(result, peak_bytes=peak, gpu=torch.cuda.get_device_name(self.device))
        return result

    def _outcome(self, task: Task, seen: Profiling, measurements: tuple[Measurement, ...]) -> TaskOutcome:
        if seen.captured is None or seen.out_of_memory:
            return "oom"
        if seen.captured.shares_a_key():
            return "collision"
        found = tuned_keys(task.workload.op)
        if not found or not measurements:
            return "no_valid_tactic"
        # FlashInfer tunes whatever bucket it is given, also one that lookups never ask for.
        foreign = found - set(seen.captured.file_keys().values())
        if foreign:
            raise TuningError(
                f"{task.task_id}: {task.bucket} is not a bucket of {task.workload.op}, serving would look "
                f"{seen.captured.bucket(task.bucket)} up and never find it",
                task=task.task_id,
                bucket=task.bucket,
            )
        return "tuned"

    def _reporter(self, task: Task) -> Callable[[str, str], None]:
        op, task_id = task.workload.op, task.task_id
        return lambda runner, tactic: self.on_watch(Watch(op, task_id, runner, tactic))

    def _timer(self) -> Timer:
        if self._cuda():
            return cuda_timer
        return cpu_timer

    def _cuda(self) -> bool:
        return self.device != "cpu"


def _shortlist(measurements: tuple[Measurement, ...], chosen: Choice | None, size: int) -> tuple[Measurement, ...]:
    """The fastest `size`, and besides them the default and the chosen one wherever they stand."""
    rivals = [m for m in measurements if m.tactic != DEFAULT_TACTIC]
    kept = {Choice(m.runner, m.tactic) for m in rivals[:size]} | {chosen}
    return tuple(m for m in measurements if m.tactic == DEFAULT_TACTIC or Choice(m.runner, m.tactic) in kept)
