"""A plugin of vLLM that changes nothing by itself and records when its hooks fire, in which process, with what known.

`write_distribution` makes the metadata of an installed distribution, so that vLLM finds `install` by entry point.
Variables ask for more: loading a recorded compiled file in place of a missing one, rewriting its device index,
FlashInfer modules from a provider, random weights that make a difference, kernels loaded ahead.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.gpu.engine_study import device_index, kernel_events
from tests.gpu.engine_study.events import FOLDER, process, record

PLACE = "ENGINE_STUDY_PLACE"
"""A folder with `rank_<r>_<d>/model`, copied to where the engine looks when it has nothing there."""
REWRITE = "ENGINE_STUDY_REWRITE"
"""The device index to rewrite loaded files for: a number, or `device` for the worker's own."""
PROVIDER = "ENGINE_STUDY_PROVIDER"
WEIGHTS = "ENGINE_STUDY_WEIGHTS"


def write_distribution(site: Path) -> None:
    """Write a `.dist-info` that holds the entry points and nothing else."""
    folder = site / "engine_study_probe-0.0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: engine-study-probe\nVersion: 0.0\n")
    here = "tests.gpu.engine_study"
    groups = {"vllm.general_plugins": f"{here}.probe:install", "sglang.srt.plugins": f"{here}.sglang_probe:install"}
    text = "\n".join(f"[{group}]\nengine_study = {target}\n" for group, target in groups.items())
    (folder / "entry_points.txt").write_text(text)


def install() -> None:
    """Install the hooks; called by vLLM without arguments in each of its processes."""
    if FOLDER not in os.environ:
        return
    began = time.time()
    known = process()
    if known["main"] == "vllm.model_executor.models.registry":
        record("plugin called", **known)
        return
    os.register_at_fork(after_in_child=lambda: record("forked", **process()))
    provider = os.environ.get(PROVIDER)
    if provider is not None:
        from ray_warmup.warmup.caches import flashinfer_modules

        record("provider activated", done=flashinfer_modules.activate(Path(provider)))
    _hook_compilation()
    _hook_workers()
    _hook_monitor()
    record("plugin called", seconds=round(time.time() - began, 4), **known)


def _wrap(owner: Any, name: str, before: Callable[..., None] | None, after: Callable[..., None] | None) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        if before is not None:
            before(*arguments, **keywords)
        began = time.time()
        result = original(*arguments, **keywords)
        if after is not None:
            after(result, time.time() - began, *arguments)
        return result

    setattr(owner, name, wrapper)


def _hook_compilation() -> None:
    from vllm.compilation import caching, decorators

    load = decorators._try_load_aot_compiled_fn

    @functools.wraps(load)
    def watched_load(model: Any, path: str) -> Any:
        _place(Path(path))
        began, is_there = time.time(), Path(path).exists()
        try:
            loaded = load(model, path)
        except Exception as error:
            record(
                "compiled file refused", path=path, was_there=is_there, error=f"{type(error).__name__}: {error}"[:600]
            )
            raise
        record(
            "compiled file",
            path=path,
            was_there=is_there,
            loaded=loaded is not None,
            seconds=round(time.time() - began, 3),
        )
        return loaded

    decorators._try_load_aot_compiled_fn = watched_load
    _wrap(caching, "aot_compile_hash_factors", None, _record_factors)


def _place(target: Path) -> None:
    source = os.environ.get(PLACE)
    if source is None or target.exists():
        return
    found = Path(source, target.parent.name, target.name)
    if not found.exists():
        record("nothing to place", wanted=str(found))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.tmp")
    shutil.copy(found, partial)
    partial.replace(target)
    record("placed", source=str(found), target=str(target))


def _record_factors(result: list[Any], _: float, vllm_config: Any) -> None:
    import vllm.envs as envs

    folder = Path(os.environ[FOLDER])
    configs = {}
    for name, value in vars(vllm_config).items():
        if hasattr(value, "compute_hash"):
            configs[name] = str(value.compute_hash())
    document = {
        "factors": [
            str(row) if isinstance(row, str) else hashlib.sha256(str(row).encode()).hexdigest() for row in result
        ],
        "environment": envs.compile_factors(),
        "configs": configs,
        "scheduler": {
            name: getattr(vllm_config.scheduler_config, name) for name in ("max_num_batched_tokens", "max_num_seqs")
        },
        "rank": vllm_config.parallel_config.rank,
    }
    (folder / f"factors-{os.getpid()}.json").write_text(json.dumps(document, default=str, indent=1))
    record("compile factors", factors=document["factors"][:2])


def _hook_workers() -> None:
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    def before_worker(*_: Any, **__: Any) -> None:
        record("init_worker hook fires")

    def before_device(wrapper: Any, *_: Any, **__: Any) -> None:
        worker = wrapper.worker
        known = {"flashinfer": "flashinfer" in sys.modules, "rank": worker.rank, "local_rank": worker.local_rank}
        record("before init_device", **known, **process())
        _wrap(worker, "load_model", None, lambda _, took, *rest: _weights(worker, took))
        _wrap(worker, "compile_or_warm_up_model", _warmup_begins, lambda _, took, *rest: _warmup_ended(worker, took))
        kernel_events.watch_triton()

    def after_device(_: Any, seconds: float, wrapper: Any) -> None:
        worker = wrapper.worker
        record("after init_device", device=str(worker.device), local_rank=worker.local_rank, seconds=round(seconds, 2))
        if "flashinfer.jit.core" in sys.modules or _has_flashinfer():
            kernel_events.watch_flashinfer()
        rewrite = os.environ.get(REWRITE)
        if rewrite is not None:
            device_index.rewrite_on_load(worker.device.index if rewrite == "device" else int(rewrite))

    _wrap(WorkerWrapperBase, "init_worker", before_worker, None)
    _wrap(WorkerWrapperBase, "init_device", before_device, after_device)


def _has_flashinfer() -> bool:
    import importlib.util

    return importlib.util.find_spec("flashinfer") is not None


def _weights(worker: Any, seconds: float) -> None:
    record("weights made", seconds=round(seconds, 2))
    if os.environ.get(WEIGHTS) is None:
        return
    import torch

    with torch.no_grad():
        for position, (name, parameter) in enumerate(worker.get_model().named_parameters()):
            if "norm" in name:
                parameter.fill_(1.0)
            elif parameter.dtype in (torch.bfloat16, torch.float16):
                generator = torch.Generator(parameter.device).manual_seed(position)
                parameter.normal_(0.0, 0.04, generator=generator)


def _warmup_begins(*_: Any, **__: Any) -> None:
    record("warmup begins", flashinfer="flashinfer" in sys.modules)


def _warmup_ended(worker: Any, seconds: float) -> None:
    from vllm.compilation.counter import compilation_counter

    record("warmup ended", seconds=round(seconds, 2), counter=vars(compilation_counter).copy(), **state(worker))


def state(worker: Any) -> dict[str, Any]:
    """What a worker holds: device memory by index, cached libraries, torch's own counters."""
    import torch
    from torch._dynamo.utils import counters

    maps = Path("/proc/self/maps").read_text(errors="replace").split("\n")
    mapped = sorted(
        {line.split()[-1] for line in maps if line.endswith(".so") and ("flashinfer" in line or "triton/" in line)}
    )
    return {
        "device": str(getattr(worker, "device", "")),
        "reserved": [torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count())],
        "inductor": {
            name: value for name, value in counters["inductor"].items() if "triton" in name or "cache" in name
        },
        "mapped": [path for path in mapped if "cached_ops" in path or "modules/" in path],
        "triton_cache_dir": os.environ.get("TRITON_CACHE_DIR"),
        "inductor_cache_dir": os.environ.get("TORCHINDUCTOR_CACHE_DIR"),
    }


def _hook_monitor() -> None:
    from vllm.utils import jit_monitor

    def before(**_: Any) -> None:
        path = os.environ.get(kernel_events.PRELOAD)
        if path is not None:
            kernel_events.preload(Path(path))
        record("monitor activated")

    _wrap(jit_monitor, "activate", before, None)
    _wrap(jit_monitor, "_handle_jit_event", lambda **seen: record("monitor reports", what=seen), None)
