"""The vLLM functions that are wrapped in an engine's processes, and what happens when something of ours fails there.

| function | fires | what is done |
|---|---|---|
| `WorkerWrapperBase.init_device` | in each worker, device chosen | find the artifact, place what needs no key |
| `WorkerBase.compile_or_warm_up_model` (the worker's own) | at the end of the engine's warmup | write the record |
| `compilation.decorators._try_load_aot_compiled_fn` | at the first forward, key known | place the compiled files |
| `v1.engine.core.get_kv_cache_configs` | in the engine's core, after the profile | recorded: plan a smaller cache |
| `utils.jit_monitor.activate` | at the end of the warmup, before kernels are reported | load the recorded kernels |
| `kernel_warmup.flashinfer_autotune` | before graphs are captured | place the table; tune, or follow lookups |
| `kernel_warmup._run_flashinfer_autotune_dummy_runs` | inside of it | record the forward, or skip it |
| `_LazyRegisteredModel._load_modelinfo_from_cache` | in the front end, before a model is inspected | place one file |
| `ray.ray_env.get_env_vars_to_copy` | in the front end of replicas that are Ray actors | name what they will lack |

Under `auto` a failure of ours is one log line and vLLM's own path; under `require` it ends the start. The same holds
for a release that was not read and differs in what is used of it: nothing of it is wrapped.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from types import ModuleType
from typing import Any

from ray_warmup.configs import env
from ray_warmup.warmup.engines.plugin.error_boundary import guarded, when_served
from ray_warmup.warmup.engines.plugin.import_hooks import when_imported
from ray_warmup.warmup.engines.plugin.ray_connection import note_fork
from ray_warmup.warmup.engines.vllm import recording_cache

logger = logging.getLogger("ray_warmup")

_process: Any = None
"""The one `VllmProcess` of this process."""


def install() -> None:
    """Wrap each function as soon as its module is imported."""
    os.register_at_fork(after_in_child=note_fork)
    # Only a worker is judged under `require`: the others belong to processes that never serve, too.
    when_imported("vllm.v1.worker.worker_base", when_served(_wrap_worker, _refusal, may_require=True))
    when_imported("vllm.compilation.decorators", when_served(_wrap_compiled_lookup, _refusal))
    when_imported("vllm.v1.engine.core", when_served(_wrap_cache_plan, _refusal))
    when_imported("vllm.utils.jit_monitor", when_served(_wrap_monitor, _refusal))
    when_imported("vllm.model_executor.warmup.kernel_warmup", when_served(_wrap_autotune, _refusal))
    when_imported("vllm.model_executor.models.registry", when_served(_wrap_modelinfo_lookup, _refusal))
    when_imported("vllm.ray.ray_env", when_served(_wrap_copied_variables, _refusal))


@functools.cache
def _refusal() -> str:
    """Return why this process' vLLM is not served, or an empty text. Says so once."""
    # Imported late: only a release between two that are known is read, which takes files and time.
    from ray_warmup.warmup.engines.vllm import versions

    version = str(getattr(sys.modules.get("vllm"), "__version__", "of no version"))
    reason = versions.refusal(version)
    if reason:
        logger.warning(
            "ray-warmup: the engine starts as without it: %s "
            "-> ENGINES.md lists what is supported; RAY_WARMUP=off ends this",
            reason,
        )
    return reason


def engine_process() -> Any:
    """The process' object, made at the first hook that fires: making it imports pydantic and this project.

    A forked child begins anew: what its parent has found and placed is its parent's.
    """
    global _process
    if _process is None or _process.pid != os.getpid():
        began = time.monotonic()
        # Imported late: vLLM loads plugins in every process, also in those that never serve.
        from ray_warmup.warmup.engines.vllm.process import VllmProcess

        _process = VllmProcess()
        _process.own_seconds += time.monotonic() - began
    return _process


def _wrap_worker(module: ModuleType) -> None:
    wrapper = module.WorkerWrapperBase
    original = wrapper.init_device

    @functools.wraps(original)
    def init_device(self: Any, *args: Any, **named: Any) -> Any:
        result = original(self, *args, **named)
        guarded("placing caches", lambda: _begin(self))
        return result

    wrapper.init_device = init_device


def _begin(wrapper: Any) -> None:
    process = engine_process()
    _watch_warmup(wrapper.worker)
    process.begin_worker(wrapper.vllm_config, wrapper.worker)
    if process.is_refused:
        raise RuntimeError(process.lookup)


def _watch_warmup(worker: Any) -> None:
    """Wrap the end of this worker's warmup, on the object.

    vLLM loads plugins inside `init_worker`, so wrapping that would come too late in a worker's own process.
    """
    original = worker.compile_or_warm_up_model

    def compile_or_warm_up_model(*args: Any, **named: Any) -> Any:
        result = original(*args, **named)
        guarded("the record of the warmup", lambda: engine_process().warmed_up())
        return result

    worker.compile_or_warm_up_model = compile_or_warm_up_model


def _wrap_compiled_lookup(module: ModuleType) -> None:
    # Private, because vLLM has no hook between naming the file and looking for it.
    original = module._try_load_aot_compiled_fn

    @functools.wraps(original)
    def try_load(model: Any, aot_compilation_path: str, *args: Any, **named: Any) -> Any:
        guarded("placing compiled files", lambda: engine_process().place_compiled(model, aot_compilation_path))
        return original(model, aot_compilation_path, *args, **named)

    module._try_load_aot_compiled_fn = try_load  # type: ignore[attr-defined]


def _wrap_cache_plan(module: ModuleType) -> None:
    original = module.get_kv_cache_configs

    @functools.wraps(original)
    def get_kv_cache_configs(vllm_config: Any, *args: Any, **named: Any) -> Any:
        planned = original(vllm_config, *args, **named)

        def leave_room() -> None:
            nonlocal planned
            if recording_cache.is_wanted(vllm_config):
                plan = functools.partial(original, vllm_config, *args, **named)
                planned = recording_cache.with_room(plan, vllm_config, planned)

        guarded("leaving memory to tuning", leave_room, may_require=False)
        return planned

    module.get_kv_cache_configs = get_kv_cache_configs  # type: ignore[attr-defined]


def _wrap_monitor(module: ModuleType) -> None:
    original = module.activate

    @functools.wraps(original)
    def activate(*args: Any, **named: Any) -> Any:
        guarded("loading recorded kernels", lambda: engine_process().load_kernels(), may_require=False)
        return original(*args, **named)

    module.activate = activate  # type: ignore[attr-defined]


def _wrap_autotune(module: ModuleType) -> None:
    original, sweep = module.flashinfer_autotune, module._run_flashinfer_autotune_dummy_runs

    @functools.wraps(original)
    def flashinfer_autotune(runner: Any, *args: Any, **named: Any) -> Any:
        guarded("placing the table", lambda: engine_process().place_table(runner))
        result = original(runner, *args, **named)
        guarded("tuning what was recorded", lambda: engine_process().tune_recorded())
        guarded("following lookups", lambda: engine_process().follow_lookups(), may_require=False)
        return result

    @functools.wraps(sweep)
    def dummy_runs(*args: Any, **named: Any) -> Any:
        return engine_process().sweep(lambda: sweep(*args, **named))

    module.flashinfer_autotune = flashinfer_autotune  # type: ignore[attr-defined]
    module._run_flashinfer_autotune_dummy_runs = dummy_runs  # type: ignore[attr-defined]


def _wrap_modelinfo_lookup(module: ModuleType) -> None:
    registered = module._LazyRegisteredModel
    original = registered._load_modelinfo_from_cache

    @functools.wraps(original)
    def load(self: Any, module_hash: str, *args: Any, **named: Any) -> Any:
        def place() -> None:
            engine_process().place_modelinfo(self._get_cache_filename(), module_hash)

        guarded("placing model facts", place, may_require=False)
        facts = original(self, module_hash, *args, **named)

        def note() -> None:
            engine_process().note_modelinfo(self._get_cache_filename(), is_found=facts is not None)

        guarded("counting model facts", note, may_require=False)
        return facts

    registered._load_modelinfo_from_cache = load


def _wrap_copied_variables(module: ModuleType) -> None:
    """Say once that vLLM does not hand variables of ours to its data parallel actors, with the remedy."""
    original = module.get_env_vars_to_copy

    @functools.wraps(original)
    def copied(*args: Any, **named: Any) -> Any:
        names = original(*args, **named)
        # A variable that is lost there looks like an engine without an artifact, and nothing says why.
        lost = [name for name in env.OF_ENGINES if env.read(name) is not None and name not in names]
        if lost:
            logger.warning(
                "ray-warmup: vLLM does not hand %s to its Ray actors -> set VLLM_RAY_EXTRA_ENV_VARS_TO_COPY=%s",
                ", ".join(lost),
                ",".join(lost),
            )
        return names

    module.get_env_vars_to_copy = copied  # type: ignore[attr-defined]
