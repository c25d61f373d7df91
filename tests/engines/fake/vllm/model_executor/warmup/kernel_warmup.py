"""The autotuning of the fake engine: FlashInfer's real AutoTuner with CPU runners, a barrier between ranks per layer.

Only where `FAKE_VLLM_CALLS` names a directory for the barrier. FAKE_VLLM_FAULT is `calls_slow`, `calls_killed` (rank 0
is killed in its fifth call while it is tuned, in the first start), `calls_differ` (rank 1 asks for one op more), or
`calls_shared` (a rank waits in its first task until another node has measured one).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

TOKENS = 4
LAYERS = ((64, 48), (48, 64))


class Runner:
    """A model of two GEMMs and a planted op."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        front = os.getppid() if world_size > 1 else os.getpid()
        self._directory = Path(os.environ["FAKE_VLLM_CALLS"]) / str(front)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._met = 0

    def forward(self, tokens: int) -> None:
        """Each layer ends when all ranks have come to its end, as a collective would."""
        import torch

        from ray_warmup.warmup.workloads.cpu_gemm_op import cpu_gemm
        from tests import planted_tactics

        for k, n in LAYERS:
            cpu_gemm(torch.randn(tokens, k), torch.randn(n, k))
            self._meet()
        planted_tactics.PlantedCall((torch.randn(tokens, 32), torch.randn(32, 32))).run()
        if os.environ.get("FAKE_VLLM_FAULT") == "calls_differ" and self.rank == 1:
            cpu_gemm(torch.randn(tokens, 16), torch.randn(8, 16))
        self._meet()

    def _meet(self) -> None:
        self._met += 1
        (self._directory / f"{self._met}.{self.rank}").touch()
        names = [self._directory / f"{self._met}.{rank}" for rank in range(self.world_size)]
        deadline = time.monotonic() + 120
        while not all(name.exists() for name in names):
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {self.rank} waits for the others in layer {self._met}")
            time.sleep(0.01)


def warm(rank: int, world_size: int) -> None:
    """Autotune, then capture: the forward at three sizes."""
    if "FAKE_VLLM_CALLS" not in os.environ:
        return
    runner = Runner(rank, world_size)
    flashinfer_autotune(runner)
    for tokens in (TOKENS, 3, 1):
        runner.forward(tokens)


def flashinfer_autotune(runner: Any, *, skip_attn: bool = False) -> None:
    """Load the rank's file where there is one, else run the dummy sweep inside `autotune()`."""
    import flashinfer
    import torch
    from flashinfer.autotuner import AutoTuner
    from vllm.model_executor.warmup.flashinfer_autotune_cache import resolve_rank_flashinfer_autotune_file

    torch.set_num_threads(1)
    path = resolve_rank_flashinfer_autotune_file(runner)
    is_loaded = path.exists() and AutoTuner.get().load_configs(str(path))
    with torch.inference_mode(), flashinfer.autotune():
        if not is_loaded:
            _run_flashinfer_autotune_dummy_runs(runner)
    if "RAY_WARMUP_TUNE" in os.environ:
        _plant(runner.rank)


def _run_flashinfer_autotune_dummy_runs(runner: Any, *, skip_attn: bool = False) -> None:
    """One forward at the largest size."""
    runner.forward(TOKENS)


def _plant(rank: int) -> None:
    """Let tactics of this process misbehave from now on."""
    from tests import planted_tactics

    fault = os.environ.get("FAKE_VLLM_FAULT", "")
    first = Path(os.environ["FAKE_VLLM_CALLS"]) / "was_killed"
    original = planted_tactics.PlantedRunner.forward
    calls = [0]
    if fault == "calls_shared":
        _wait_for_others()

    def run(self: Any, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **named: Any) -> Any:
        calls[0] += 1
        if fault == "calls_slow" and rank == 0:
            time.sleep(0.01)
        if fault == "calls_killed" and rank == 0 and calls[0] == 5 and not first.exists():
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, inputs, tactic, do_preparation, **named)

    planted_tactics.PlantedRunner.forward = run  # type: ignore[method-assign]


def _wait_for_others() -> None:
    """Hold the first task until a process on another node has measured one, or was killed in it."""
    from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner

    original = FlashInferTuner.tune
    has_measured = Path(os.environ["FAKE_VLLM_CALLS"]) / "another_node_measures"

    def tune(self: Any, task: Any) -> Any:
        deadline = time.monotonic() + 90
        while not has_measured.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return original(self, task)

    FlashInferTuner.tune = tune  # type: ignore[method-assign]
