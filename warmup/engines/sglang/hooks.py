"""The SGLang functions that are wrapped in an engine's processes, and what happens when something of ours fails there.

| function | fires | what is done |
|---|---|---|
| `ModelRunner.initialize` | in each scheduler, before the model is loaded | find the artifact, place its files |
| `flashinfer_autotune_context` | around the dummy forward | place the table; record the forward |
| `BaseRunner.warmup` | before graphs are captured | tune what was recorded, or follow lookups |
| `ModelRunner.init_cuda_graphs` | when graphs are captured | load the recorded kernels, write the record |

The plugin is called when most of SGLang is imported already. So methods are wrapped on their classes, and the context
in the module whose function looks it up at each call: `base_runner` holds other names of that module as its own.
Under `auto` a failure of ours is one log line and SGLang's own path; under `require` it ends the start.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ray_warmup.warmup.engines.plugin.error_boundary import guarded, when_served
from ray_warmup.warmup.engines.plugin.import_hooks import when_imported

logger = logging.getLogger("ray_warmup")

RUNNER = "sglang.srt.model_executor.runner"

_process: Any = None
"""The one `SglangProcess` of this process."""


def install() -> None:
    """Wrap each function as soon as its module is imported."""
    # Only a model's runner is judged under `require`: other processes import the rest, too, and never serve.
    runner = when_served(_wrap_model_runner, _refusal, may_require=True)
    when_imported("sglang.srt.model_executor.model_runner", runner)
    when_imported(f"{RUNNER}.base_runner", when_served(_wrap_runner, _refusal))
    when_imported(f"{RUNNER}.flashinfer_autotune", when_served(_wrap_autotune, _refusal))


@functools.cache
def _refusal() -> str:
    """Return why this process' SGLang is not served, or an empty text. Says so once."""
    # Imported late: only a release between two that are known is read, which takes files and time.
    from ray_warmup.warmup.engines.sglang.versions import SGLANG

    reason = SGLANG.refusal(str(getattr(sys.modules.get("sglang"), "__version__", "of no version")))
    if reason:
        logger.warning(
            "ray-warmup: the engine starts as without it: %s "
            "-> ENGINES.md lists what is supported; RAY_WARMUP=off ends this",
            reason,
        )
    return reason


def engine_process() -> Any:
    """The process' object, made at the first hook that fires: making it imports pydantic and this project."""
    global _process
    if _process is None or _process.pid != os.getpid():
        began = time.monotonic()
        # Imported late: SGLang loads plugins in every process, also in those that never serve.
        from ray_warmup.warmup.engines.sglang.process import SglangProcess

        _process = SglangProcess()
        _process.own_seconds += time.monotonic() - began
    return _process


def _wrap_model_runner(module: ModuleType) -> None:
    model_runner = module.ModelRunner
    initialize, capture = model_runner.initialize, model_runner.init_cuda_graphs

    @functools.wraps(initialize)
    def begin(self: Any, *args: Any, **named: Any) -> Any:
        # A draft model's runner lives in the same process, and its configuration is not the engine's.
        if not self.is_draft_worker:
            guarded("placing caches", lambda: _begin(self))
        return initialize(self, *args, **named)

    @functools.wraps(capture)
    def init_cuda_graphs(self: Any, *args: Any, **named: Any) -> Any:
        result = capture(self, *args, **named)
        if not self.is_draft_worker:
            guarded("loading recorded kernels", lambda: engine_process().load_kernels(), may_require=False)
            guarded("the record of the warmup", lambda: engine_process().warmed_up())
        return result

    model_runner.initialize = begin
    model_runner.init_cuda_graphs = init_cuda_graphs


def _begin(model_runner: Any) -> None:
    process = engine_process()
    process.begin_scheduler(model_runner)
    if process.is_refused:
        raise RuntimeError(process.lookup)


def _wrap_runner(module: ModuleType) -> None:
    original = module.BaseRunner.warmup

    @functools.wraps(original)
    def warmup(self: Any, *args: Any, **named: Any) -> Any:
        result = original(self, *args, **named)
        guarded("tuning what was recorded", lambda: engine_process().tune_once())
        guarded("following lookups", lambda: engine_process().follow_once(), may_require=False)
        return result

    module.BaseRunner.warmup = warmup


def _wrap_autotune(module: ModuleType) -> None:
    original = module.flashinfer_autotune_context

    @contextlib.contextmanager
    @functools.wraps(original)
    def context(model_runner: Any, *args: Any, **named: Any) -> Iterator[None]:
        process = engine_process()
        guarded("placing the table", lambda: process.place_table(module, model_runner))
        with process.forward(), original(model_runner, *args, **named):
            yield

    module.flashinfer_autotune_context = context  # type: ignore[attr-defined]
