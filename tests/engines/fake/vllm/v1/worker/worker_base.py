"""A worker: plugins are loaded when it begins, the device is chosen, the warmup compiles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import vllm
from vllm import envs
from vllm.compilation import decorators


class Worker:
    """Compiles one module and one DeepGEMM kernel."""

    def __init__(self, vllm_config: Any, rank: int) -> None:
        self.vllm_config, self.rank, self.device = vllm_config, rank, None

    def forward(self) -> None:
        """What is compiled."""

    def compile_or_warm_up_model(self) -> str:
        """The engine's own warmup."""
        from vllm.model_executor.warmup import kernel_warmup
        from vllm.utils import jit_monitor

        kernel_warmup.warm(self.rank, self.vllm_config.parallel_config.tensor_parallel_size)
        compile_before_the_key()
        decorators.first_forward(self)
        compile_deep_gemm("gemm")
        jit_monitor.activate(mode="warn", verbose=False)
        return "warm"


class WorkerWrapperBase:
    """What the engine's executors call."""

    def __init__(self, vllm_config: Any, rank: int) -> None:
        self.vllm_config, self.rank = vllm_config, rank

    def init_worker(self) -> None:
        """Load plugins, make the worker."""
        vllm.load_general_plugins()
        self.worker = Worker(self.vllm_config, self.rank)

    def init_device(self) -> None:
        """Choose the device."""


def compile_before_the_key() -> None:
    """Compile one graph while weights are processed, into Inductor's own directory."""
    target = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or f"{envs.VLLM_CACHE_ROOT}/inductor") / "ef" / "cef.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("graph")


def compile_deep_gemm(name: str) -> None:
    """Build one kernel where it is missing or not marked as whole, as DeepGEMM does."""
    base = (os.environ.get("DG_JIT_CACHE_DIR") or f"{envs.VLLM_CACHE_ROOT}/deep_gemm").split(":")[0]
    entry = Path(base) / "cache" / f"kernel.{name}"
    if not (entry / ".committed").is_file():
        entry.mkdir(parents=True, exist_ok=True)
        (entry / "kernel.cubin").write_text(name)
        (entry / "meta.json").write_text("{}")
        (entry / ".committed").touch()
