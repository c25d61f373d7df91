"""Makes an engine's recorded request again in a process without the engine, and refuses one that is not the same.

The op's public function is called with inputs of the recorded form, and stopped where it asks the AutoTuner. What it
asks is described as a recording describes it: only if every part is equal may the process' timings count.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from ray_warmup.warmup.device.autotuner_seams import capture_call
from ray_warmup.warmup.errors import TuningError, WorkloadError
from ray_warmup.warmup.workloads.live_request import LiveRequest, LiveRequests, live_request
from ray_warmup.warmup.workloads.recipes import TORCH_PREFIX, Recipe, backend_of, recipe_of, value_of
from ray_warmup.warmup.workloads.recorded_request import RecordedInput, RecordedRequest, Recording

MAX_SHOWN = 300
"""Characters of one side of a difference."""


def rebuild_all(recording: Recording, states: Mapping[str, str], device: str) -> tuple[LiveRequests, dict[str, str]]:
    """Make every request of a recording again.

    Args:
        recording: of a replica of the same class.
        states: digest of a request -> state of its runners where it was recorded.
        device: on which the inputs are made.

    Returns:
        The requests that are equal, and the reason for each other one by its digest.
    """
    made, refused = LiveRequests(), dict[str, str]()
    for request in recording.requests:
        try:
            made.add(rebuild(request, states.get(request.digest, ""), device))
        except WorkloadError as error:
            refused[request.digest] = str(error)
    return made, refused


def rebuild(request: RecordedRequest, state: str, device: str) -> LiveRequest:
    """Make one request again, with runners of this process.

    Args:
        request: as it was recorded.
        state: of the recorded runners, empty where it is not known.
        device: on which the inputs are made.

    Raises:
        WorkloadError: it has no recipe, the function refuses the inputs, or it asks for something else.
    """
    recipe = recipe_of(request)
    arguments = _arguments(recipe, request, device)
    function = _function(recipe)
    try:
        with torch.inference_mode():
            asked = capture_call(lambda: function(**arguments), request.op)
            live = live_request(
                asked.op, asked.runners, asked.tuning_config, asked.inputs, asked.kwargs, request.buckets
            )
    except TuningError as error:
        raise WorkloadError(f"{recipe.name}: {error}", op=request.op) from error
    except Exception as error:  # a border: whatever a public function raises about the inputs is the reason
        raise WorkloadError(f"{recipe.name} refuses it: {type(error).__name__}: {error}", op=request.op) from error
    if problem := difference(request, live.request):
        raise WorkloadError(f"{recipe.name} asks for something else: {problem}", op=request.op)
    if state and state != live.state:
        raise WorkloadError(
            f"{recipe.name} asks with other runners: recorded {state[:MAX_SHOWN]}, made {live.state[:MAX_SHOWN]}",
            op=request.op,
        )
    return live


def difference(recorded: RecordedRequest, made: RecordedRequest) -> str:
    """Name the first part in which two requests differ, with both values, or return an empty string."""
    for field in fields(RecordedRequest):
        old, new = getattr(recorded, field.name), getattr(made, field.name)
        if old != new:
            return f"{field.name}: recorded {str(old)[:MAX_SHOWN]}, made {str(new)[:MAX_SHOWN]}"
    return ""


def _function(recipe: Recipe) -> Callable[..., Any]:
    module, _, name = recipe.function.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise WorkloadError(f"{recipe.name} is not there: {error}", op=recipe.op) from error
    return found


def _arguments(recipe: Recipe, request: RecordedRequest, device: str) -> dict[str, Any]:  # a border: of a FlashInfer op
    """Return the arguments of the function, tensors without values: nothing runs with them."""
    made: dict[str, Any] = {}  # a border, as above
    for name, one in zip(recipe.arguments, request.inputs, strict=True):
        if name:
            made[name] = _input(one, device)
    if recipe.out_dtype:
        made[recipe.out_dtype] = made["out"].dtype
    if backend := backend_of(recipe, request):
        made["backend"] = backend
    return made


def _input(one: RecordedInput, device: str) -> Any:
    if one.kind == "tensor":
        return torch.empty_strided(one.shape, one.stride, dtype=getattr(torch, one.dtype), device=device)
    value = value_of(one)
    if isinstance(value, str) and value.startswith(TORCH_PREFIX):
        return getattr(torch, value.removeprefix(TORCH_PREFIX))
    return value
