"""A model's runner: it compiles when it is initialised, and warms up before its graphs are captured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sglang.srt.model_executor.runner.base_runner import BaseRunner


class ModelRunner:
    """Compiles one graph, one module of its own and one DeepGEMM kernel."""

    def __init__(self, server_args: Any, model_config: Any, tp_rank: int) -> None:
        self.server_args, self.model_config, self.tp_rank = server_args, model_config, tp_rank
        self.is_draft_worker = False
        self.initialize()

    def initialize(self) -> None:
        """Load the model."""
        compile_file(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "ef" / "cef.so", "graph")

    def init_cuda_graphs(self, capture_decode_cuda_graph: bool = True) -> None:
        """Warm up, then capture."""
        runner = BaseRunner(self)
        runner.warmup()
        runner.warmup()
        compile_jit("gelu")
        compile_deep_gemm("gemm")
        runner.capture()


def compile_jit(name: str) -> None:
    """Build one of SGLang's own modules where there is none."""
    base = Path(os.environ.get("SGLANG_JIT_CACHE_DIR") or Path("~/.cache/sglang/jit").expanduser())
    entry = base / "sm90" / name / "build-0123" / "deps-4567"
    compile_file(entry / f"{name}.so", name)
    (entry / "sgl_deps.json").write_text("[]")


def compile_deep_gemm(name: str) -> None:
    """Build one kernel where it is missing or not marked as whole, as DeepGEMM does."""
    base = os.environ.get("SGLANG_DG_CACHE_DIR") or f"{Path('~/.cache/sglang').expanduser()}/deep_gemm"
    entry = Path(base) / "cache" / f"kernel.{name}"
    if not (entry / ".committed").is_file():
        entry.mkdir(parents=True, exist_ok=True)
        (entry / "kernel.cubin").write_text(name)
        (entry / ".committed").touch()


def compile_file(path: Path, text: str) -> None:
    """Write a result where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
