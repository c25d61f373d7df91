"""The real tuner of one process: FlashInfer's AutoTuner on CUDA, and the same AutoTuner with CPU runners.

This class joins the modules (task_tuning, compose, loading, replay, building, guard) behind `warmup/device/tuner.py`'s
protocol and holds what they share: device, options, workloads, the watch. It has no logic of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from ray_warmup.warmup.artifact.quarantine import named_by
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.caches import flashinfer_modules
from ray_warmup.warmup.device import building, compose, loading, process_facts
from ray_warmup.warmup.device.autotuner_seams import metadata
from ray_warmup.warmup.device.default_entries import with_defaults
from ray_warmup.warmup.device.device_context import probe_context
from ray_warmup.warmup.device.memory import limit_memory, memory_of
from ray_warmup.warmup.device.reference_gemm import reference_seconds
from ray_warmup.warmup.device.replay import replay_calls
from ray_warmup.warmup.device.scratch import scratch_directory
from ray_warmup.warmup.device.task_tuning import TaskTuner
from ray_warmup.warmup.device.tuner import Memory, TunerOptions, Watch
from ray_warmup.warmup.errors import ArtifactError, TuningError
from ray_warmup.warmup.families.library import AutoTuner, installed_family
from ray_warmup.warmup.messages.answers import Guarded, Loaded, Replayed
from ray_warmup.warmup.tasks import Choice, Contender, GuardVerdict, Skip, TacticId, Task, TaskResult, Workload
from ray_warmup.warmup.workloads.base import OpCall, builder_for

logger = logging.getLogger(__name__)

SEED = 20_240_601
"""Seed of every input; equal on all ranks."""


class FlashInferTuner:
    """See `ray_warmup.warmup.device.tuner.Tuner`. One per process, used by one thread (`watch` by any)."""

    def __init__(self, backend: Literal["cuda", "cpu"], options: TunerOptions | None = None) -> None:
        """Take the process' current device.

        Raises:
            TuningError: `cuda` where torch sees no GPU, `cpu` where it does; or a FlashInfer of no known family.
        """
        installed_family()
        if (backend == "cuda") != torch.cuda.is_available():
            seen = "sees a GPU" if torch.cuda.is_available() else "sees no GPU"
            raise TuningError(f"backend {backend!r}, but torch in this process {seen}", backend=backend)
        self._device = "cpu"
        if backend != "cpu":
            self._device = f"cuda:{torch.cuda.current_device()}"
        self._options = options or TunerOptions()
        self._workloads: tuple[Workload, ...] = ()
        self._others: tuple[Workload, ...] = ()
        self._watch = Watch()
        self._listener: Callable[[Watch], None] | None = None
        limit_memory(self._device, self._options.autotune.max_memory_bytes)

    def describe(self) -> dict[str, str]:
        """The named parts of this process' fingerprint."""
        return process_facts.describe_process(self._device)

    def device(self) -> str:
        """`NVIDIA H200`, or the CPU's model name."""
        parts = self.describe()
        if self._device == "cpu":
            return parts["cpu_model"]
        return parts["gpu"]

    def listen(self, listener: Callable[[Watch], None]) -> None:
        """Tell `listener` of every tactic right before it runs."""
        self._listener = listener

    def set_quarantine(self, quarantine: Sequence[TacticId]) -> None:
        """Measure none of these from now on, and refuse tables that name one."""
        self._options = replace(self._options, quarantine=tuple(quarantine))

    def reference_seconds(self) -> float | None:
        """Return the seconds of the reference GEMM on this device, or None on CPU."""
        return reference_seconds(self._device)

    def watch(self) -> Watch:
        """Return the current measurement."""
        return self._watch

    def prepare(self, workloads: Sequence[Workload], others: Sequence[Workload] = ()) -> tuple[Skip, ...]:
        """Keep workloads that can run here, and return the others with one reason each."""
        self._others, _ = self._sorted_out(others)
        self._workloads, skips = self._sorted_out(workloads)
        return skips

    def _sorted_out(self, workloads: Sequence[Workload]) -> tuple[tuple[Workload, ...], tuple[Skip, ...]]:
        """Tell those that can run on this device from the others, which have a reason each."""
        able: list[Workload] = []
        skips: list[Skip] = []
        for workload in workloads:
            reason = builder_for(workload).unsupported_here(workload, self._device)
            if reason is None:
                able.append(workload)
            else:
                skips.append(Skip(workload.name, workload.op, reason))
        return tuple(able), tuple(skips)

    def missing_modules(self) -> tuple[str, ...]:
        """Modules of the prepared workloads that are not compiled on this node."""
        return tuple(building.missing(self._compiled))

    def compile(self, modules: Sequence[str], max_jobs: int) -> Iterator[tuple[str, ...]]:
        """Build the named modules, step by step."""
        return building.build(building.specs_of(self._compiled), modules, max_jobs)

    def libraries(self, also: Sequence[str] = ()) -> Mapping[str, Path]:
        """The compiled modules of the prepared workloads."""
        names = [*building.specs_of(self._compiled), *also]
        for workload in self._compiled:
            names += workload.modules
        return flashinfer_modules.library_paths(names)

    def activate(self, provider: Path) -> bool:
        """Let this process' FlashInfer find a provider's modules."""
        return flashinfer_modules.activate(provider)

    def tune(self, task: Task) -> TaskResult:
        """Measure one task."""
        tuner = TaskTuner(self._device, self._options, self._set_watch)
        workload, bucket = task.workload, task.bucket
        return tuner.tune(
            task, lambda: self._call(workload, bucket), outline=lambda: self._shape_of_call(workload, bucket)
        )

    def measure(self, task: Task, shortlist: Sequence[Choice]) -> TaskResult:
        """Measure only these candidates of one task again, and return all of their timings."""
        tuner = TaskTuner(self._device, self._options, self._set_watch)
        return tuner.tune(task, lambda: self._call(task.workload, task.bucket), shortlist)

    def guard(self, task: Task, result: TaskResult, contenders: Sequence[Contender] = ()) -> Guarded:
        """Decide between the winner and the default as serving runs them."""
        from ray_warmup.warmup.device.guard.guard import guard

        builder, workload = builder_for(task.workload), task.workload
        self._set_watch(Watch(op=workload.op, task_id=task.task_id))
        try:
            return guard(
                lambda seed: builder.build(workload, task.bucket, self._device, seed),
                task,
                result,
                self._options,
                self._device,
                contenders,
            )
        except RuntimeError:
            # a lap's kernel may have taken the context with it, which shows at any later call
            probe_context(self._device, task.task_id)
            raise
        finally:
            self._set_watch(Watch())

    def table(
        self, results: Sequence[TaskResult], verdicts: Sequence[GuardVerdict], left_out: Sequence[Task] = ()
    ) -> bytes | None:
        """The composed table, as FlashInfer itself writes it out after loading it."""
        composed = compose.compose(results, verdicts, metadata())
        if composed is None:
            return None
        composed = with_defaults(composed, left_out, self._shape_of_call)
        try:
            with scratch_directory() as directory:
                path = directory / "composed.json"
                path.write_bytes(composed.to_bytes())
                # Through FlashInfer itself, so that the bytes are those that its own save would write.
                loading.load_table(path, (), self._shape_of_call)
                return loading.held_table().to_bytes()
        finally:
            self.reset()

    def check(self, table: bytes) -> str | None:
        """Return the reason why this process refuses the table (form, environment, a quarantined tactic), or None."""
        try:
            parsed = parse_table(table)
        except ArtifactError as error:
            return str(error)
        return loading.refusal(parsed) or named_by(parsed, self._options.quarantine)

    def load(self, path: Path, expected: Sequence[Task]) -> Loaded:
        """Clear, load, count, digest, look up."""
        return loading.load_table(path, expected, self._shape_of_call)

    def held_digest(self) -> str | None:
        """Digest of what the AutoTuner would save now."""
        held = loading.held_table()
        if not held.entries:
            return None
        return held.digest

    def replay(self, tasks: Sequence[Task]) -> Replayed:
        """Run every task and every untuned workload of this rank once."""
        untuned: list[Task] = []
        for workload in self._workloads:
            if not workload.tunable:
                untuned += [Task(workload, bucket) for bucket in workload.buckets]
        # on the CPU nothing is compiled or initialised by values, and the LM head's weight alone takes 600 MB
        build = self._shape_of_call if self._device == "cpu" else self._call
        try:
            return replay_calls([*tasks, *untuned], build, self._device, self._set_watch)
        finally:
            self._set_watch(Watch())

    def memory(self) -> Memory:
        """Return the memory of the device."""
        return memory_of(self._device)

    def reset(self) -> None:
        """Empty the AutoTuner, and give memory back that torch only keeps."""
        AutoTuner.get().clear_cache()
        if self._device != "cpu":
            torch.cuda.empty_cache()

    @property
    def _compiled(self) -> tuple[Workload, ...]:
        """Whose modules are built and shipped."""
        return (*self._workloads, *self._others)

    def _call(self, workload: Workload, tokens: int) -> OpCall:
        return builder_for(workload).build(workload, tokens, self._device, SEED)

    def _shape_of_call(self, workload: Workload, tokens: int) -> OpCall:
        return builder_for(workload).build(workload, tokens, self._device, SEED, values=False)

    def _set_watch(self, watch: Watch) -> None:
        self._watch = watch
        if self._listener is not None:
            self._listener(watch)
