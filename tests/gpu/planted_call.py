"""A vLLM plugin for measurements: adds one real `bmm_fp8` to every step of the model runner.

On Hopper vLLM asks FlashInfer for nothing with a dense model. With this call its step asks as SGLang's layers do:
`bmm_fp8(backend="cublas")` of 4096 x 6144. Loaded through the entry point that `entry_point` writes.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

K, N = 4096, 6144
MAX_TOKENS = 16384


def register() -> None:
    """Wrap the steps of both of vLLM's model runners, when they are imported."""
    from ray_warmup.warmup.engines.plugin.import_hooks import when_imported

    for name in ("vllm.v1.worker.gpu.model_runner", "vllm.v1.worker.gpu_model_runner"):
        when_imported(name, lambda module: _wrap(module.GPUModelRunner))


def _wrap(runner: Any) -> None:
    """Put the call before each dummy step and each real one: inside the model it would be compiled with it."""
    call, dummy_run, execute_model = _Call(), runner._dummy_run, runner.execute_model

    @functools.wraps(dummy_run)
    def dummy(self: Any, num_tokens: int, *args: Any, **named: Any) -> Any:
        call(num_tokens)
        return dummy_run(self, num_tokens, *args, **named)

    @functools.wraps(execute_model)
    def execute(self: Any, scheduler_output: Any, *args: Any, **named: Any) -> Any:
        call(scheduler_output.total_num_scheduled_tokens)
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


def entry_point(site: Path, ours: dict[str, str]) -> None:
    """Write the metadata of an installed package with this plugin, and of the project with its own."""
    for name, entries in (("planted_call", {"planted_call": f"{__name__}:register"}), ("ray_warmup", ours)):
        folder = site / f"{name}-0.0.test.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.0.test\n")
        lines = ["[vllm.general_plugins]", *(f"{key} = {value}" for key, value in entries.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
