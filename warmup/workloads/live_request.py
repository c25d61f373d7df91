"""Requests of an engine with the live runners that make them runnable, kept by the process in which they were made.

A runner may hold a compiled module and options of its layer, so it is kept as it is, and copied where an op changes it
afterwards. No activation and no weight is kept: inputs are made anew (`fresh_inputs.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray_warmup.warmup.errors import WorkloadError
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.fresh_inputs import Template, template_of
from ray_warmup.warmup.workloads.recorded_request import (
    DIGEST_PARAM,
    RecordedInput,
    RecordedRequest,
    RecordedRunner,
    Recording,
    recording_of,
)

DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3fn")
"""Activations whose tolerance is known; any other dtype is judged like the coarsest."""
COARSEST = "float8_e4m3fn"


@dataclass(frozen=True, slots=True, eq=False)
class LiveRequest:
    """A recorded request, its runners and the templates of its inputs."""

    request: RecordedRequest
    runners: tuple[Any, ...]
    tuning_config: Any
    templates: tuple[Template, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # a border: arguments of a FlashInfer op

    @property
    def state(self) -> str:
        """Text of what the runners hold: their attributes, but for caches, as FlashInfer's own hash has them."""
        told: list[str] = []
        for runner in self.runners:
            held: list[str] = []
            for name, value in sorted(vars(runner).items()):
                if not name.endswith("_cache"):
                    held.append(f"{name}={_text(value)}")
            told.append(f"{type(runner).__name__}({', '.join(held)})")
        return "; ".join(told)

    def left_alone(self, reason: str) -> LiveRequest:
        """Return the request as one that keeps its default for a reason."""
        return replace(self, request=replace(self.request, keeps_default=self.request.keeps_default or reason))


class LiveRequests:
    """Requests of this process by the digest that their workloads carry."""

    def __init__(self) -> None:
        self._requests: dict[str, LiveRequest] = {}
        self.seen: set[str] = set()
        """Keys of requests that need no second look."""

    def add(self, live: LiveRequest) -> None:
        """Keep a request, or of two that differ in their number of tokens the larger one with the buckets of both.

        Raises WorkloadError where two different requests have one short digest.
        """
        short = live.request.digest[:16]
        known = self._requests.get(short)
        if known is None:
            self._requests[short] = live
            return
        if known.request.digest != live.request.digest:
            raise WorkloadError(f"two requests of {live.request.op} have the short digest {short}", op=live.request.op)
        larger = max(known, live, key=lambda one: one.request.tokens)
        both = tuple(sorted({*known.request.buckets, *live.request.buckets}))
        is_exact = known.request.exact_sizes or live.request.exact_sizes
        self._requests[short] = replace(larger, request=replace(larger.request, buckets=both, exact_sizes=is_exact))

    def of(self, workload: Workload) -> LiveRequest:
        """Return the request behind a workload. Raises WorkloadError where this process has not made it."""
        live = self._requests.get(str(workload.param(DIGEST_PARAM)))
        if live is None:
            raise WorkloadError(f"{workload.name}: this process has not made the request", workload=workload.name)
        return live

    def recording(self) -> Recording:
        """Return the requests as values."""
        return recording_of(live.request for live in self._requests.values())

    def states(self) -> dict[str, str]:
        """Return what the runners of each request hold, by the request's digest."""
        return {live.request.digest: live.state for live in self._requests.values()}

    def take(self, others: LiveRequests) -> None:
        """Keep other requests instead of these."""
        self._requests = dict(others._requests)

    def clear(self) -> None:
        """Forget every request."""
        self._requests.clear()

    def __len__(self) -> int:
        return len(self._requests)


PROCESS = LiveRequests()
"""The requests of this process; workloads are values and find their live parts here."""


def live_request(
    op: str,
    runners: tuple[Any, ...],
    tuning_config: Any,
    inputs: list[Any],
    kwargs: Mapping[str, Any],  # a border, as above
    extra_buckets: tuple[int, ...] = (),
) -> LiveRequest:
    """Describe one request and keep what is live of it.

    Args:
        op: FlashInfer's name of the op.
        runners: in FlashInfer's order.
        tuning_config: the op's own.
        inputs: as the op passed them.
        kwargs: further arguments of the request.
        extra_buckets: sizes that the engine's own tuning adds to the op's.
    """
    follows = following_dimensions(tuning_config, inputs)
    one_token: list[Any] = []
    described: list[RecordedInput] = []
    kept: list[Template] = []
    for value, dims in zip(inputs, follows, strict=True):
        one_token.append(_narrowed(value, dims, 1))
        described.append(_described(value, dims))
        kept.append(template_of(value, dims))
    specs = tuning_config.dynamic_tensor_specs
    tokens = 1
    if specs:
        tokens = int(inputs[specs[0].input_idx[0]].shape[specs[0].dim_idx[0]])
    recorded = tuple(_recorded_runner(runner, one_token) for runner in runners)
    whole = tuple(_recorded_runner(runner, inputs) for runner in runners)
    request = RecordedRequest(
        op=op,
        runners=recorded,
        inputs=tuple(described),
        config=tuple(_config_in_words(tuning_config)),
        scalars=tuple((name, _text(value)) for name, value in sorted(kwargs.items())),
        tokens=max(1, tokens),
        buckets=own_buckets(tuning_config, max(1, tokens), extra_buckets),
        dtype=_activation_dtype(tuning_config, inputs),
        exact_sizes=whole != recorded,
        keeps_default=_refusal(runners, tuning_config, inputs),
    )
    return LiveRequest(request, tuple(map(copy.copy, runners)), tuning_config, tuple(kept), dict(kwargs))


def _recorded_runner(runner: Any, inputs: list[Any]) -> RecordedRunner:
    """Return a runner's class, and what it adds to the file key for these inputs."""
    return RecordedRunner(type(runner).__name__, str(tuple(runner.get_cache_key_extras(inputs))))


def own_buckets(tuning_config: Any, tokens: int, extra: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return the buckets under which the op serves up to this many tokens, by its own rules."""
    specs = tuning_config.dynamic_tensor_specs
    if not specs:
        return (1,)
    made = specs[0].gen_tuning_buckets
    if callable(made):
        made = made(tokens)
    largest = int(specs[0].map_to_tuning_buckets(tokens))
    served: set[int] = set()
    for size in (*made, *extra, tokens):
        if size < 1:
            continue
        bucket = int(specs[0].map_to_tuning_buckets(int(size)))
        if 1 <= bucket <= largest:
            served.add(bucket)
    return tuple(sorted(served)) or (max(1, largest),)


def following_dimensions(tuning_config: Any, inputs: list[Any]) -> tuple[tuple[int, ...], ...]:
    """Return the dimensions of each input that follow the number of tokens."""
    found: list[set[int]] = [set() for _ in inputs]
    if not tuning_config.dynamic_tensor_specs:
        return ((),) * len(inputs)
    for spec in tuning_config.dynamic_tensor_specs:
        for index, dim in zip(spec.input_idx, spec.dim_idx, strict=True):
            if hasattr(inputs[index], "shape"):
                found[index].add(dim % inputs[index].dim())
    for constraint in tuning_config.constraint_specs:
        tensor = inputs[constraint.input_idx]
        if hasattr(tensor, "shape") and _depends_on_tokens(constraint, inputs, found):
            found[constraint.input_idx].add(constraint.dim_idx % tensor.dim())
    return tuple(tuple(sorted(dims)) for dims in found)


def _depends_on_tokens(constraint: Any, inputs: list[Any], follows: list[set[int]]) -> bool:
    """Return True if a constrained dimension changes with the number of tokens.

    The constraint on a workspace only repeats its size.
    """
    shapes: list[tuple[int, ...]] = []
    doubled: list[tuple[int, ...]] = []
    for value, dims in zip(inputs, follows, strict=True):
        shape = list(getattr(value, "shape", (0,)))
        shapes.append(tuple(shape))
        for dim in dims:
            shape[dim] *= 2
        doubled.append(tuple(shape))
    return bool(constraint.infer_shape(tuple(shapes)) != constraint.infer_shape(tuple(doubled)))


def _narrowed(value: Any, dims: tuple[int, ...], size: int) -> Any:
    for dim in dims:
        if value.shape[dim] > size:
            value = value.narrow(dim, 0, size)
    return value


def _described(value: Any, follows: tuple[int, ...]) -> RecordedInput:
    if value is None:
        return RecordedInput("none")
    if hasattr(value, "dtype") and hasattr(value, "stride"):
        dtype = str(value.dtype).removeprefix("torch.")
        return RecordedInput("tensor", dtype, tuple(value.shape), tuple(value.stride()), follows)
    return RecordedInput("value", value=_text(value))


def _text(value: Any) -> str:
    """Return a text of a value that is equal in every process.

    An object is named by its class alone.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if type(value).__name__ == "dtype":
        return str(value)
    return type(value).__name__


def _config_in_words(tuning_config: Any) -> Iterator[str]:
    for spec in tuning_config.dynamic_tensor_specs:
        yield f"tokens: inputs {list(spec.input_idx)} dimensions {list(spec.dim_idx)}"
    for constraint in tuning_config.constraint_specs:
        yield f"follows: input {constraint.input_idx} dimension {constraint.dim_idx}"
    for index, _ in tuning_config.tensor_initializers:
        yield f"initialised by the op: input {index}"
    yield f"graph: {tuning_config.use_cuda_graph}, cold cache: {tuning_config.use_cold_l2_cache}"


def _activation_dtype(tuning_config: Any, inputs: list[Any]) -> str:
    specs = tuning_config.dynamic_tensor_specs
    tensors = [value for value in inputs if hasattr(value, "dtype") and hasattr(value, "stride")]
    if not tensors:
        return COARSEST
    first = inputs[specs[0].input_idx[0]] if specs else tensors[0]
    name = str(first.dtype).removeprefix("torch.")
    if name in DTYPES:
        return name
    return COARSEST


def _refusal(runners: tuple[Any, ...], tuning_config: Any, inputs: list[Any]) -> str:
    """Return the reason why a request keeps its default, or an empty string."""
    talking = [type(runner).__name__ for runner in runners if ".comm." in f"{type(runner).__module__}."]
    if talking:
        return f"{talking[0]} communicates with other ranks, and no rank may wait for another one's tactic"
    if len(tuning_config.dynamic_tensor_specs) > 1:
        return f"{len(tuning_config.dynamic_tensor_specs)} dimensions are tuned together, one is covered"
    if not any(hasattr(value, "stride") for value in inputs):
        return "it has no tensor"
    return ""
