"""What a block of code asks FlashInfer's AutoTuner, and what a rank's tasks ask: keys that can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ray_warmup.warmup.tasks import Workload, tasks_of
from ray_warmup.warmup.workloads.base import builder_for


@dataclass
class Lookups:
    """Everything that was asked; a key names its op first."""

    keys: set[str] = field(default_factory=set)
    shapes: set[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=set)
    """Op, and shapes of its first two inputs, not rounded to any bucket."""
    hits: int = 0
    misses: int = 0


@contextmanager
def lookups() -> Iterator[Lookups]:
    """Collect what the block asks outside of tuning; it is answered as ever."""
    from flashinfer.autotuner import AutoTuner

    from ray_warmup.warmup.device.tuning_request import Captured

    tuner, seen = AutoTuner.get(), Lookups()
    choose_one, search_cache = tuner.choose_one, tuner.search_cache

    def choose(op: str, runners: Any, config: Any, inputs: Any, **rest: Any) -> Any:
        seen.keys.update(Captured(op, tuple(runners), config, list(inputs), rest).file_keys().values())
        seen.shapes.add((op, tuple(inputs[0].shape), tuple(inputs[1].shape)))
        return choose_one(op, runners, config, inputs, **rest)

    def search(*args: Any, **kwargs: Any) -> Any:
        answer = search_cache(*args, **kwargs)
        seen.hits, seen.misses = seen.hits + bool(answer[0]), seen.misses + (not answer[0])
        return answer

    tuner.choose_one, tuner.search_cache = choose, search
    try:
        yield seen
    finally:
        del tuner.choose_one, tuner.search_cache


def tuned_keys(workloads: Iterable[Workload], device: str) -> dict[str, str]:
    """Every key under which a task of these workloads is tuned, and the workload's name."""
    from ray_warmup.warmup.device.autotuner_seams import capture_call

    found: dict[str, str] = {}
    with torch.inference_mode():
        for task in tasks_of(tuple(workloads)):
            call = builder_for(task.workload).build(task.workload, task.bucket, device, 0, values=False)
            for key in capture_call(call.run, task.workload.op).file_keys().values():
                found[key] = task.workload.name
    return found
