"""Serving random requests on the built-in runner and judging it: was the first step of each shape a stall?

The parts of `engine_check.py` that run in one process, with or without the engine warmups before the first request.
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_warmup.configs import env
from ray_warmup.configs.model import ModelDims, load_model
from ray_warmup.configs.schema import EngineSection
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.runner_config import layer_calls, whole_model
from ray_warmup.warmup.engines.builtin.runner.scheduler import Scheduler, ServedRequest
from ray_warmup.warmup.engines.builtin.warmups.verify import KINDS
from ray_warmup.warmup.tasks import Workload

FACTOR, SLACK_S = 3.0, 0.002
"""A first step may take 3 times its later median, or 2 ms more, whichever is larger."""
TINY = {
    "name": "tiny",
    "architecture": "dense",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 1001,
}


@dataclass
class Step:
    """One timed step."""

    shape: str
    seconds: float


@dataclass
class Pass:
    """One serving of all requests."""

    steps: list[Step] = field(default_factory=list)
    greedy: dict[str, list[int]] = field(default_factory=dict)
    """Tokens of the greedy requests."""


def make_runner(args: argparse.Namespace) -> Any:
    """The built-in runner: KV cache in two groups with blocks of 16 and 32 tokens."""
    from ray_warmup.warmup.engines.builtin.runner.builtin import BuiltinRunner
    from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig

    dims, limits = dims_of(args), limits_of(args)
    groups = interleaved_groups(args.layers, (16, 32))
    per_request = sum(-(-limits.max_model_len // group.block_size) for group in groups)
    cache = KVCacheConfig(limits.max_num_seqs * per_request + 1, groups)
    calls = calls_of(args, dims, limits)
    dtype = "float32" if calls[0].family == "cpu_gemm" else "bfloat16"
    return BuiltinRunner(RunnerConfig(dims, limits, cache, device=args.device, dtype=dtype, workloads=calls))


def dims_of(args: argparse.Namespace) -> ModelDims:
    """The preset's dimensions."""
    return ModelDims.model_validate(TINY) if args.tiny else load_model(args.preset)


def limits_of(args: argparse.Namespace) -> SchedulerLimits:
    """Of a step and of a sequence: the longest prompt and room for its output."""
    longest = 128 if args.tiny else 4096
    return SchedulerLimits(longest, 64, longest + 32)


def calls_of(args: argparse.Namespace, dims: ModelDims, limits: SchedulerLimits) -> tuple[Workload, ...]:
    """What its layers call; on the CPU an fp8 model computes in torch what a GPU's calls would give."""
    backend = "cpu" if args.device == "cpu" and args.quantization == "none" else "cuda"
    dtype = "float32" if backend == "cpu" else "bfloat16"
    return layer_calls(dims, whole_model(limits), backend=backend, dtype=dtype, quantization=args.quantization)


def waves(args: argparse.Namespace, vocab: int, longest: int) -> list[list[ServedRequest]]:
    """Random requests in batches of 1 to 64: prompts of 1 to `longest` tokens, mixed sampling parameters."""
    numbers = np.random.default_rng(2024)
    made: list[list[ServedRequest]] = []
    left = args.requests
    while left:
        size = min(left, int(numbers.integers(1, 65)))
        wave = []
        for index in range(size):
            length = int(numbers.integers(1, longest + 1))
            prompt = tuple(numbers.integers(0, vocab, length).tolist())
            params = KINDS[int(numbers.integers(len(KINDS)))]
            wave.append(ServedRequest(f"w{len(made)}r{index}", prompt, int(numbers.integers(2, 17)), params))
        made.append(wave)
        left -= size
    return made


def serve_all(runner: Any, args: argparse.Namespace, monitor: Any) -> Pass:
    """Serve every wave to its end; every step timed up to the device's own end of it."""
    from ray_warmup.warmup.engines.builtin.runner.padded_sizes import padded

    done, longest = Pass(), runner.limits.max_model_len - 32
    for wave in waves(args, runner.vocab_size, longest):
        scheduler = Scheduler(runner.limits, runner.kv_cache_config, chunk=max(longest // 2, 1))
        scheduler.add(wave)
        while (step := scheduler.schedule()) is not None:
            counts = list(step.num_scheduled_tokens.values())
            decodes = sum(count == 1 for count in counts)
            size = padded(sum(counts), runner.token_sizes) if counts else 0
            rows = padded(len(counts), runner.request_sizes) if counts else 0
            shape = f"tokens={size},requests={rows},decodes={bool(decodes)},prefills={len(counts) > decodes}"
            began = time.perf_counter()
            with monitor.running(shape):
                runner.execute_model(step)
                result = runner.sample_tokens(None)
                synchronize(args)
            done.steps.append(Step(shape, time.perf_counter() - began))
            scheduler.update(step, result)
        served = scheduler.done.items()
        done.greedy |= {name: r.output for name, r in served if r.sampling is not None and r.sampling.is_greedy}
    return done


def synchronize(args: argparse.Namespace) -> None:
    """Wait for the device."""
    if args.device != "cpu":
        import torch

        torch.cuda.synchronize()


def judge(passes: list[Pass]) -> dict[str, Any]:
    """The first step of each shape in the first pass against the same step in the later passes."""
    first, seen = passes[0].steps, set[str]()
    rows: list[dict[str, Any]] = []
    for index, step in enumerate(first):
        if step.shape in seen:
            continue
        seen.add(step.shape)
        later = float(np.median([other.steps[index].seconds for other in passes[1:]]))
        over = step.seconds - max(FACTOR * later, later + SLACK_S)
        rows.append({"shape": step.shape, "first_ms": step.seconds * 1e3, "later_ms": later * 1e3, "over": over > 0})
    rows.sort(key=lambda row: row["first_ms"] - row["later_ms"], reverse=True)
    return {
        "steps": len(first),
        "shapes": len(rows),
        "stalled_shapes": sum(row["over"] for row in rows),
        "slowest_first": rows[:8],
        "seconds_first_pass": sum(step.seconds for step in first),
        "seconds_later_pass": float(np.median([sum(s.seconds for s in p.steps) for p in passes[1:]])),
        "median_step_ms": float(np.median([step.seconds for step in passes[-1].steps])) * 1e3,
    }


def part_serving(args: argparse.Namespace, warm: bool) -> dict[str, Any]:
    """Serve with or without warmup, compilations counted from before the first request."""
    from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor

    began = time.perf_counter()
    runner = make_runner(args)
    result: dict[str, Any] = {
        "make_runner_s": time.perf_counter() - began,
        "in_torch": list(runner.projections.fallbacks),
    }
    if warm:
        result |= warm_up(args, runner)
    gc.collect()
    gc.freeze()
    with CompilationMonitor() as monitor:
        passes = [serve_all(runner, args, monitor) for _ in range(4)]
    seen = monitor.report()
    result |= judge(passes)
    result |= {"compiled": seen.compiled, "loaded": seen.loaded, "not_counted": seen.unavailable}
    result["compilations"] = dict(Counter(f"{e.kind}:{e.kernel}" for e in seen.events))
    greedy = passes[0].greedy
    result["greedy_tokens"] = (
        hashlib.sha256(json.dumps(greedy, sort_keys=True).encode()).hexdigest()[:12] if greedy else None
    )
    quiet = seen.is_clean and result["stalled_shapes"] == 0
    # Without warmup the check must see something, or it sees nothing with it either.
    result["passed"] = quiet and result["warm"] and not result["left_behind"] if warm else not quiet
    return result


def warm_up(args: argparse.Namespace, runner: Any) -> dict[str, Any]:
    """Run the engine warmups; `warm` says whether each did what it should on this device."""
    from ray_warmup.warmup.engines.builtin.warmups.all_warmups import ENGINE_WARMUPS
    from ray_warmup.warmup.engines.builtin.warmups.run import run_engine_warmups
    from ray_warmup.warmup.engines.builtin.warmups.spec import EngineWarmupOptions, WarmupContext

    began = time.perf_counter()
    before = state_of(runner, args)
    context = WarmupContext(
        runner,
        runner.execute_model,
        runner.sample_tokens,
        lambda: synchronize(args),
        EngineWarmupOptions(EngineSection(slot_mapping_for_any=True)),
        capability=capability(args),
    )
    report = run_engine_warmups(context, ENGINE_WARMUPS)
    captured = report.outcome("graph_capture")
    on_gpu = captured.state == "done" and not runner.projections.fallbacks
    return {
        "warmup_s": time.perf_counter() - began,
        "warmups": report.to_json(),
        "graphs": list(captured.shapes) or captured.reason,
        "left_behind": differing(before, state_of(runner, args)),
        "warm": report.ready and (on_gpu or args.device == "cpu"),
    }


def state_of(runner: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What no warmup may change: buffers, KV cache, random states, environment, the tuner's statistics."""
    import torch
    from flashinfer.autotuner import AutoTuner

    state: dict[str, Any] = {name: tensor.clone() for name, tensor in runner.buffers().items()}
    for layer, caches in runner.kv_store.layers.items():
        state |= {f"cache.{layer}.{side}": cache.any() for side, cache in enumerate(caches)}
    if args.device != "cpu":
        state["random.device"] = torch.cuda.get_rng_state()
    return state | {
        "random.torch": torch.get_rng_state(),
        "random.python": random.getstate(),
        "environment": env.snapshot(),
        "tuner.statistics": copy.deepcopy(vars(AutoTuner.get().stats)),
    }


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what is no longer the same."""
    import torch

    return [
        name
        for name, value in before.items()
        if not (torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name])
    ]


def capability(args: argparse.Namespace) -> tuple[int, int] | None:
    """Compute capability of the device."""
    import torch

    return None if args.device == "cpu" else torch.cuda.get_device_capability()
