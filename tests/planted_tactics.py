"""A real FlashInfer op with planted tactics: right and fast, slow, wrong, NaN, unwritten, crashing. On CPU and CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from flashinfer.autotuner import AutoTuner, DynamicTensorSpec, TunableRunner, TuningConfig
from flashinfer.fused_moe.utils import get_hybrid_num_tokens_buckets, map_to_hybrid_bucket_uncapped

from ray_warmup.warmup.tasks import Choice, Measurement, Task, TaskResult, Workload

OP = "planted"
RUNNER = "PlantedRunner"
FAST, SLOW, WRONG, NAN, TILE, UNWRITTEN, CRASH, SAME = range(8)
"""Tactics by number; the default (-1) does the work eight times."""
SECOND_CALL, OTHER_WEIGHT, TAIL, WORKSPACE, IN_GRAPH = range(8, 13)
"""Right in the first call of a task: wrong from the second on, for any other weight, at sizes that are no multiple of
64, where it adds to a workspace that nobody clears, and inside CUDA graphs. Not proposed by the op."""

_state: dict[str, Any] = {}
"""What the tactics above remember; see `forget`."""

CONFIG = TuningConfig(
    dynamic_tensor_specs=(DynamicTensorSpec((0,), (0,), get_hybrid_num_tokens_buckets, map_to_hybrid_bucket_uncapped),)
)


class PlantedRunner(TunableRunner):
    """`a @ b`, done once by the fast tactic and eight times by the default."""

    def get_valid_tactics(self, inputs: list[Any], profile: Any) -> list[int]:
        """All planted ones."""
        return list(range(8))

    def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
        """[M, N] in a new tensor."""
        a, b = inputs
        if tactic == CRASH:
            raise RuntimeError("planted crash")
        if tactic == UNWRITTEN:
            return torch.empty(a.shape[0], b.shape[1], dtype=a.dtype, device=a.device)
        for _ in range({SLOW: 15, SAME: 7, -1: 7}.get(tactic, 0)):
            torch.mm(a, b)
        out = torch.mm(a, b)
        if tactic == WRONG:
            out *= 1.05
        if tactic == NAN:
            out[0, 0] = float("nan")
        if tactic == TILE:
            out[-8:, -8:] = 0
        return _damaged(out, a, b, tactic) if tactic >= SECOND_CALL else out


def forget() -> None:
    """Let the next call be a task's first."""
    _state.clear()


def _damaged(out: Any, a: Any, b: Any, tactic: int) -> Any:
    """The output of a tactic that is right once."""
    if tactic == WORKSPACE:
        workspace = _state.setdefault("workspace", torch.zeros_like(out))
        if workspace.shape != out.shape:
            return out
        workspace += out
        return workspace.clone()
    _state["calls"] = _state.get("calls", 0) + 1
    first_weight = _state.setdefault("weight", b)
    is_wrong = {
        SECOND_CALL: _state["calls"] > 1,
        OTHER_WEIGHT: b.data_ptr() != first_weight.data_ptr(),
        TAIL: a.shape[0] % 64 != 0,
        IN_GRAPH: out.is_cuda and torch.cuda.is_current_stream_capturing(),
    }
    if is_wrong[tactic]:
        out[-1] *= 2.0  # far outside the tolerance of any type
    return out


@dataclass(frozen=True)
class PlantedCall:
    """One call through the AutoTuner, as a real op makes it."""

    inputs: tuple[Any, ...]

    def run(self) -> Any:
        """[M, N]."""
        runner, tactic = AutoTuner.get().choose_one(OP, [PlantedRunner()], CONFIG, list(self.inputs))
        return runner(list(self.inputs), tactic=tactic)

    def narrowed(self, tokens: int) -> PlantedCall:
        """For the first rows alone."""
        a, b = self.inputs
        return PlantedCall((a[:tokens], b))

    def reference(self) -> Any:
        """In float64."""
        a, b = self.inputs
        return a.double() @ b.double()


def build(seed: int, device: str, size: int = 192) -> PlantedCall:
    """Random operands [size, size]; float32 on CPU, bfloat16 on CUDA."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    generator = torch.Generator(device).manual_seed(seed)
    a, b = (torch.randn(size, size, generator=generator, device=device, dtype=dtype) for _ in range(2))
    return PlantedCall((a, b))


def task_on(device: str, size: int = 192) -> Task:
    """The planted task."""
    dtype = "float32" if device == "cpu" else "bfloat16"
    return Task(Workload("planted", "planted", OP, "planted", dtype, (("k", size),), (size,)), size)


def result_of(task: Task, winner: int | None, *others: int) -> TaskResult:
    """What tuning would have given with this winner and these runners-up; None: the default won."""
    listed = [tactic for tactic in (winner, *others) if tactic is not None]
    measurements = tuple(Measurement(RUNNER, tactic, 1e-3 * (1 + i / 100), 0.0, 1) for i, tactic in enumerate(listed))
    return TaskResult(
        task_id=task.task_id,
        op=OP,
        bucket=task.bucket,
        outcome="tuned",
        choice=Choice(RUNNER, -1 if winner is None else winner),
        default_runner=RUNNER,
        measurements=measurements,
    )
