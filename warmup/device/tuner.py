"""The protocol between the orchestration and what happens inside one process on one device.

`warmup/device/flashinfer_tuner.py` implements it for CUDA and CPU, and `tests/fakes.py` has a scripted one without
torch. All methods are synchronous and run on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ray_warmup.configs.schema import AutotuneSection, GuardSection
from ray_warmup.warmup.tasks import Choice, Contender, GuardVerdict, Skip, TacticId, Task, TaskResult, Workload

if TYPE_CHECKING:
    from ray_warmup.warmup.messages.answers import Guarded, Loaded, Replayed


@dataclass(frozen=True, slots=True)
class Watch:
    """The current measurement of a process.

    The heartbeat thread reads it, the tuner thread replaces it.
    """

    op: str = ""
    task_id: str = ""
    runner: str = ""
    tactic: str = ""


@dataclass(frozen=True, slots=True)
class TunerOptions:
    """The configuration's sections about measuring and guarding, and what must not be measured.

    Settings that change the table are part of the cache key.
    """

    autotune: AutotuneSection = field(default_factory=AutotuneSection)
    guard: GuardSection = field(default_factory=GuardSection)
    quarantine: tuple[TacticId, ...] = ()
    """Tactics that must not run."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a device's memory."""

    free: int
    total: int
    peak: int
    """Most that this process has used."""


class Tuner(Protocol):
    """Tuner of one process.

    `prepare` comes first. Every method may raise a `WarmupError`.
    """

    def describe(self) -> dict[str, str]:
        """The named parts of this process' fingerprint (see `warmup/artifact/fingerprint.py`)."""

    def device(self) -> str:
        """The device for people: `NVIDIA H200` or the CPU's model name."""

    def reference_seconds(self) -> float | None:
        """Return the seconds of a reference GEMM that exposes a slow device, or None if it is meaningless."""

    def watch(self) -> Watch:
        """Return the current measurement.

        Callable from another thread: takes no lock, calls no CUDA.
        """

    def listen(self, listener: Callable[[Watch], None]) -> None:
        """Tell `listener` of every tactic right before it runs, on the tuner's thread."""

    def set_quarantine(self, quarantine: Sequence[TacticId]) -> None:
        """From now on measure none of these, and refuse tables that name one."""

    def prepare(self, workloads: Sequence[Workload], others: Sequence[Workload] = ()) -> tuple[Skip, ...]:
        """Set this rank's workloads, and return those that this GPU or installation cannot run.

        `others` are run elsewhere in this process and count only for their modules.
        """

    def missing_modules(self) -> tuple[str, ...]:
        """FlashInfer modules that the prepared workloads need and that are not compiled here."""

    def compile(self, modules: Sequence[str], max_jobs: int) -> Iterator[tuple[str, ...]]:
        """Build modules in parallel, yielding the names of each finished step while the rest continues.

        Raises CompileError naming the module.
        """

    def libraries(self, also: Sequence[str] = ()) -> Mapping[str, Path]:
        """Name and file of every compiled module that the prepared workloads need, and of those named besides."""

    def activate(self, provider: Path) -> bool:
        """Use the modules installed in a provider directory.

        Returns False if there are none.
        """

    def tune(self, task: Task) -> TaskResult:
        """Measure one task's tactics.

        A failing tactic raises nothing. Raises DeadContextError if the context died.
        """

    def measure(self, task: Task, shortlist: Sequence[Choice]) -> TaskResult:
        """Measure only these candidates of one task again, and return every one that ran."""

    def guard(self, task: Task, result: TaskResult, contenders: Sequence[Contender] = ()) -> Guarded:
        """Time the winner against the default as serving runs it, compare outputs, decide.

        A candidate of `contenders` counts for no more than its ratio there, which another device has measured.
        """

    def table(
        self, results: Sequence[TaskResult], verdicts: Sequence[GuardVerdict], left_out: Sequence[Task] = ()
    ) -> bytes | None:
        """Return the file that FlashInfer's `save_configs` writes for these results. None if nothing was tuned.

        A verdict takes precedence over its task's result. There is one entry per task. A task whose outcome is not
        "tuned", and each of `left_out`, keeps the default, by an explicit entry if its keys are known.
        """

    def check(self, table: bytes) -> str | None:
        """Return the reason why this process refuses the table (schema, metadata, size), or None."""

    def load(self, path: Path, expected: Sequence[Task]) -> Loaded:
        """Clear, load, count, digest, and look every expected task up through the op's own call.

        Raises LoadError (after clearing again) when FlashInfer refuses the file or the counts differ.
        """

    def held_digest(self) -> str | None:
        """Return the digest of the table that this process serves, read back from the AutoTuner.

        None without a table.
        """

    def replay(self, tasks: Sequence[Task]) -> Replayed:
        """Run every loaded task and every untuned workload once, on CUDA also under graph capture."""

    def memory(self) -> Memory:
        """Return the memory of the device, or of the host on the CPU."""

    def reset(self) -> None:
        """Forget every in-memory winner and loaded entry."""
