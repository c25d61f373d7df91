"""Ahead-of-time files: looked for below a digest of configuration and environment, compiled where they are missing."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from vllm import envs
from vllm.compilation.counter import compilation_counter


def _model_hash_key(fn: Any) -> str:
    return hashlib.sha256(fn.__qualname__.encode()).hexdigest()


def _try_load_aot_compiled_fn(model: Any, aot_compilation_path: str) -> Any | None:
    path = Path(aot_compilation_path)
    if not path.is_file() or path.read_text() != f"compiled for rank {model.rank}":
        return None
    compilation_counter.num_aot_artifacts_loaded += 1
    return path


def first_forward(model: Any) -> None:
    """Load or compile the model's one module."""
    factors = str([envs.compile_factors(), model.vllm_config.compute_hash(), _model_hash_key(model.forward)])
    digest = hashlib.sha256(factors.encode()).hexdigest()
    directory = Path(envs.VLLM_CACHE_ROOT) / "torch_compile_cache" / "torch_aot_compile" / digest
    path = directory / f"rank_{model.rank}_0" / "model"
    if _try_load_aot_compiled_fn(model, str(path)) is not None:
        if os.environ.get("FAKE_VLLM_FAULT") == "crash_warm":
            raise RuntimeError("the fake engine crashed because it found its file")
        return
    compile_inductor(directory / "inductor_cache")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"compiled for rank {model.rank}")
    compilation_counter.num_aot_compiles += 1


def compile_inductor(directory: Path) -> None:
    """Build what is missing of two kernels."""
    for name in ("ab/cab.so", "cd/ccd.so"):
        target = directory / name
        if not target.exists():
            time.sleep(float(os.environ.get("FAKE_VLLM_SLOW_S", "0")))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(name)
    (directory / "locks").mkdir(parents=True, exist_ok=True)
    (directory / "locks" / "cab.lock").touch()
