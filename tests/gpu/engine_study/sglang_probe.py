"""A plugin of SGLang that records when it is called and what FlashInfer's tuner is asked; it changes nothing."""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any

from tests.gpu.engine_study.events import FOLDER, process, record

_asked: set[str] = set()


def install() -> None:
    """Install the hooks; called by SGLang without arguments in each of its processes."""
    if FOLDER not in os.environ:
        return
    loaded = [
        name for name in ("flashinfer", "flashinfer.jit.env", "sglang.srt.managers.scheduler") if name in sys.modules
    ]
    caches = {
        name: os.environ.get(name) for name in ("TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE", "SGLANG_CACHE_DIR")
    }
    record("plugin called", also_imported=loaded, caches=caches, **process())
    _hook_autotune()
    from tests.gpu.engine_study import kernel_events

    kernel_events.watch_triton()


def _hook_autotune() -> None:
    from sglang.srt.model_executor.runner import flashinfer_autotune as module

    path_of, should_run = module.flashinfer_autotune_cache_path, module.should_run_flashinfer_autotune

    @functools.wraps(path_of)
    def watched_path(model_runner: Any) -> Any:
        path = path_of(model_runner)
        _watch_tuner()
        record("autotune file", path=str(path), was_there=path.is_file())
        return path

    @functools.wraps(should_run)
    def watched_gate(*arguments: Any, **keywords: Any) -> bool:
        answer = bool(should_run(*arguments, **keywords))
        record("autotune gate", answer=answer)
        return answer

    module.flashinfer_autotune_cache_path = watched_path
    module.should_run_flashinfer_autotune = watched_gate


def _watch_tuner() -> None:
    from flashinfer.autotuner import AutoTuner

    from tests.gpu.engine_study import kernel_events

    kernel_events.watch_flashinfer()
    choose = AutoTuner.choose_one
    if getattr(choose, "_is_watched", False):
        return

    @functools.wraps(choose)
    def watched(self: Any, op: str, runners: Any, tuning: Any, inputs: Any, **keywords: Any) -> Any:
        began = time.time()
        chosen, tactic = choose(self, op, runners, tuning, inputs, **keywords)
        shapes = [tuple(value.shape) if hasattr(value, "shape") else None for value in inputs]
        names = [type(runner).__name__ for runner in runners]
        key = f"{op} {names} {shapes}"
        if key not in _asked:
            _asked.add(key)
            dtypes = [str(getattr(value, "dtype", None)) for value in inputs]
            record(
                "asked",
                op=op,
                runners=names,
                shapes=shapes,
                dtypes=dtypes,
                seconds=round(time.time() - began, 4),
                tuning=bool(getattr(self, "is_tuning_mode", False)),
                chosen=type(chosen).__name__,
                tactic=str(tactic),
            )
        return chosen, tactic

    watched._is_watched = True  # type: ignore[attr-defined]
    AutoTuner.choose_one = watched
