"""The autotuning of the fake engine, in the order of the real one: load the rank's file, tune a forward, save it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sglang.srt.environ import envs


def flashinfer_autotune_cache_path(model_runner: Any) -> Path:
    """The file of this rank."""
    directory = Path(envs.SGLANG_CACHE_DIR.get()) / "flashinfer" / "autotune" / "0.7.2" / "sm90" / "0123456789abcdef"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"rank_tp{model_runner.tp_rank}_pp0_dp0.json"


@contextlib.contextmanager
def flashinfer_autotune_context(model_runner: Any, *, run_lm_head: bool) -> Iterator[None]:
    """Tune what the block asks for."""
    import torch
    from flashinfer import autotune_v2
    from flashinfer.autotuner import AutoTuner, autotune

    torch.set_num_threads(1)
    torch.cuda.is_current_stream_capturing = lambda: False  # type: ignore[assignment]
    path = flashinfer_autotune_cache_path(model_runner)
    tuner = AutoTuner.get()
    if path.is_file():
        tuner.load_configs(str(path))
    with autotune(True, cache=None), autotune_v2(mode="tune", persistent_cache=False):
        yield
    tuner.save_configs(str(path))


def run_flashinfer_autotune_forward(model_runner: Any, forward_fn: Callable[[], None], *, run_lm_head: bool) -> None:
    """Run one forward inside the context."""
    with flashinfer_autotune_context(model_runner, run_lm_head=run_lm_head):
        forward_fn()
