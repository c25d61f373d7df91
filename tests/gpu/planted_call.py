"""A vLLM plugin for measurements: adds one real `bmm_fp8` to every step of the model runner.

On Hopper vLLM asks FlashInfer for nothing with a dense model. With this call its step asks as SGLang's layers do:
`bmm_fp8(backend="cublas")` of 4096 x 6144. With `PLANTED_COLLECTIVE` set each step also asks for an op that sums over
the ranks, of which no rank may run a tactic alone. Loaded through the entry point that `entry_point` writes.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

K, N = 4096, 6144
MAX_TOKENS = 16384
SUM = "planted_sum"
"""Op of the collective."""


def register() -> None:
    """Wrap the steps of both of vLLM's model runners, when they are imported."""
    from ray_warmup.warmup.engines.plugin.import_hooks import when_imported

    for name in ("vllm.v1.worker.gpu.model_runner", "vllm.v1.worker.gpu_model_runner"):
        when_imported(name, lambda module: _wrap(module.GPUModelRunner))


def _wrap(runner: Any) -> None:
    """Put the call before each dummy step and each real one: inside the model it would be compiled with it."""
    call, dummy_run, execute_model = _Call(), runner._dummy_run, runner.execute_model
    talk = _Collective() if os.environ.get("PLANTED_COLLECTIVE") else None

    @functools.wraps(dummy_run)
    def dummy(self: Any, num_tokens: int, *args: Any, **named: Any) -> Any:
        call(num_tokens)
        if talk is not None:
            talk(num_tokens)
        return dummy_run(self, num_tokens, *args, **named)

    @functools.wraps(execute_model)
    def execute(self: Any, scheduler_output: Any, *args: Any, **named: Any) -> Any:
        call(scheduler_output.total_num_scheduled_tokens)
        if talk is not None:
            talk(scheduler_output.total_num_scheduled_tokens)
        return execute_model(self, scheduler_output, *args, **named)

    runner._dummy_run, runner.execute_model = dummy, execute


class _Call:
    """The call, with operands that are made when it is first needed."""

    def __init__(self) -> None:
        self._operands: tuple[Any, ...] | None = None

    def __call__(self, tokens: int) -> None:
        import torch
        from flashinfer.gemm import bmm_fp8

        if not 0 < tokens <= MAX_TOKENS:
            return
        with torch.inference_mode():
            if self._operands is None:
                a = torch.full((1, MAX_TOKENS, K), 0.01, device="cuda").to(torch.float8_e4m3fn)
                weight = torch.full((1, N, K), 0.01, device="cuda").to(torch.float8_e4m3fn).transpose(1, 2)
                one = torch.ones((), device="cuda")
                self._operands = (a, weight, one, one)
            a, weight, a_scale, scale = self._operands
            bmm_fp8(a[:, :tokens], weight, a_scale, scale, torch.bfloat16, backend="cublas")


class _Collective:
    """A sum over vLLM's tensor parallel ranks as a tunable op; any tactic but the default ends the process."""

    def __init__(self) -> None:
        self._runner: Any = None

    def __call__(self, tokens: int) -> None:
        import torch
        from flashinfer.autotuner import AutoTuner

        from tests.planted_tactics import CONFIG

        if not 0 < tokens <= MAX_TOKENS:
            return
        if self._runner is None:
            self._runner = _summing_runner()
        with torch.inference_mode():
            given = [torch.ones(tokens, 64, device="cuda"), torch.ones(64, 64, device="cuda")]
            runner, tactic = AutoTuner.get().choose_one(SUM, [self._runner], CONFIG, given)
            runner(given, tactic=tactic)


def _summing_runner() -> Any:
    from flashinfer.autotuner import TunableRunner
    from vllm.distributed import tensor_model_parallel_all_reduce

    class SummingRunner(TunableRunner):  # type: ignore[misc]
        """Sums over the ranks."""

        def get_valid_tactics(self, inputs: list[Any], profile: Any) -> list[int]:
            """One, which no rank may run."""
            return [0]

        def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
            """[M, N], summed."""
            if tactic != -1:
                os._exit(3)  # a rank alone would wait for the others for ever
            return tensor_model_parallel_all_reduce(inputs[0] @ inputs[1])

    SummingRunner.__module__ = "flashinfer.comm.planted"
    return SummingRunner()


def entry_point(site: Path, ours: dict[str, str]) -> None:
    """Write the metadata of an installed package with this plugin, and of the project with its own."""
    for name, entries in (("planted_call", {"planted_call": f"{__name__}:register"}), ("ray_warmup", ours)):
        folder = site / f"{name}-0.0.test.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.0.test\n")
        lines = ["[vllm.general_plugins]", *(f"{key} = {value}" for key, value in entries.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
