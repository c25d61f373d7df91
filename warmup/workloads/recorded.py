"""Builds calls of requests that an engine made: its own runners, new inputs, the AutoTuner's choice.

A workload leads to its request by digest, and only the process that made the request can build it. Where a runner
writes into a buffer that it is given, each call gets a new one, as the op itself gives it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ray_warmup.warmup.errors import WorkloadError
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads import recorded_experts
from ray_warmup.warmup.workloads.base import OpCall
from ray_warmup.warmup.workloads.fresh_inputs import fresh_inputs, shapes_at
from ray_warmup.warmup.workloads.live_request import PROCESS, LiveRequest, LiveRequests
from ray_warmup.warmup.workloads.recorded_references import reference_of

_outputs: dict[str, tuple[int, ...]] = {}
"""Digest -> inputs that the default tactic writes and does not read, found by running it once."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedCall:
    """One call of a recorded request with inputs of its own."""

    live: LiveRequest
    all_inputs: tuple[Any, ...]
    """In the op's order, with everything that is no tensor."""
    outputs: tuple[int, ...]
    """Inputs into which the runner writes; each call replaces them."""

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The inputs that the call reads."""
        return tuple(value for index, value in enumerate(self.all_inputs) if index not in self.outputs)

    def run(self) -> Any:
        """Ask the AutoTuner, run its choice, return what the runner returns or has written."""
        from ray_warmup.warmup.families.library import AutoTuner

        live = self.live
        given = [_like(value) if index in self.outputs else value for index, value in enumerate(self.all_inputs)]
        runner, tactic = AutoTuner.get().choose_one(
            live.request.op, list(live.runners), live.tuning_config, given, **live.kwargs
        )
        returned = runner(inputs=given, tactic=tactic, **live.kwargs)
        if self.outputs:
            written = tuple(given[index] for index in self.outputs)
            if len(written) == 1:
                return written[0]
            return written
        return returned

    def narrowed(self, tokens: int) -> RecordedCall:
        """Return the same call for its first tokens alone."""
        shapes = shapes_at(self.live.tuning_config, self.live.templates, tokens)
        narrow = tuple(
            _first(value, shape, template.follows)
            for value, shape, template in zip(self.all_inputs, shapes, self.live.templates, strict=True)
        )
        return replace(self, all_inputs=narrow)

    def with_weights_of(self, other: RecordedCall) -> RecordedCall:
        """Return the same call on the weights of another copy.

        `other` itself where the request has no weights. Weights are the matrices that do not follow the number of
        tokens. A workspace is one row of bytes.
        """
        weights = []
        for index, template in enumerate(self.live.templates):
            if template.is_tensor and not template.follows and len(template.shape) > 1:
                weights.append(index)
        if not weights:
            return other
        taken = list(self.all_inputs)
        for index in weights:
            taken[index] = other.all_inputs[index]
        return replace(self, all_inputs=tuple(taken))

    def reference(self) -> Any:
        """Compute the result in float32, or return None where the op's arithmetic is not known."""
        return reference_of(self.live.request.op, self.all_inputs)


def build(workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True) -> OpCall:
    """Make new inputs of a request that this process has made. Raises WorkloadError.

    With `values=False` floating inputs are uninitialised and the call is not run.
    """
    return build_of(PROCESS, workload, tokens, seed, values=values)


def build_of(requests: LiveRequests, workload: Workload, tokens: int, seed: int, *, values: bool = True) -> OpCall:
    """Make new inputs of one of these requests, as `build` does."""
    live = requests.of(workload)
    given = _inputs(live, tokens, seed, values=values)
    if live.request.op in recorded_experts.POSITION_OF_OP:
        return recorded_experts.call_of(live, given, seed, values=values)
    call = RecordedCall(live, given, ())
    if not values:
        return call
    digest = live.request.digest
    if digest not in _outputs:
        _outputs[digest] = written_inputs(live)
    return replace(call, outputs=_outputs[digest])


def written_inputs(live: LiveRequest) -> tuple[int, ...]:
    """Find the inputs that the default tactic writes and does not read, at the smallest bucket.

    Raises WorkloadError where a runner returns nothing and writes no floating input: its results cannot be compared.
    """
    given = list(_inputs(live, live.request.buckets[0], 0, values=True))
    before = list(map(_copy_of, given))
    returned = live.runners[0](inputs=given, tactic=-1, **live.kwargs)
    changed: dict[int, Any] = {}
    for index, old in enumerate(before):
        if old is not None and _differs(given[index], old):
            changed[index] = _copy_of(given[index])
    if changed:
        for index in changed:
            given[index].zero_()
        live.runners[0](inputs=given, tactic=-1, **live.kwargs)
        for index, first in changed.items():
            if _differs(given[index], first):
                raise WorkloadError(f"{live.request.op} changes an input that it reads (number {index})")
    elif not _tensors_in(returned):
        raise WorkloadError(f"{live.request.op} returns nothing and writes no floating input")
    return tuple(changed)


def unsupported_here(workload: Workload, device: str) -> str | None:
    """Return the reason why the request cannot be built and compared in this process, or None."""
    import torch

    try:
        with torch.inference_mode():
            call = build(workload, workload.buckets[0], device, 0)
            if isinstance(call, recorded_experts.RecordedExperts):
                call.run()  # what writes into its inputs has run already
    except (WorkloadError, RuntimeError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def unsupported_on(workload: Workload, capability: tuple[int, int]) -> str | None:
    """Always None: it ran where it was recorded."""
    return None


def jit_specs(workload: Workload) -> tuple[Any, ...]:
    """Return none: the engine's own forward has built its modules."""
    return ()


def _inputs(live: LiveRequest, tokens: int, seed: int, *, values: bool) -> tuple[Any, ...]:
    shapes = shapes_at(live.tuning_config, live.templates, tokens)
    initializers = dict(live.tuning_config.tensor_initializers)
    made = fresh_inputs(live.templates, shapes, seed, initializers, values=values)
    hook = live.tuning_config.inputs_pre_hook
    if values and hook is not None:
        # The op's own: for example a routing in which no token goes to one expert twice.
        made = list(hook(made))
    return tuple(made)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "stride")


def _like(value: Any) -> Any:
    import torch

    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _copy_of(value: Any) -> Any:
    """A copy of a floating tensor, else None: workspaces of bytes are nobody's result."""
    if _is_tensor(value) and value.dtype.is_floating_point:
        return value.clone()
    return None


def _differs(now: Any, before: Any) -> bool:
    import torch

    return not torch.equal(now.float().nan_to_num(), before.float().nan_to_num())


def _first(value: Any, shape: tuple[int, ...], follows: tuple[int, ...]) -> Any:
    for dim in follows:
        value = value.narrow(dim, 0, shape[dim])
    return value


def _tensors_in(returned: Any) -> list[Any]:
    values = returned
    if not isinstance(returned, list | tuple):
        values = (returned,)
    return [value for value in values if _is_tensor(value)]
