"""Calls of recorded requests: new inputs of the recorded form, the engine's own runners, comparable outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from flashinfer.autotuner import AutoTuner, ConstraintSpec, TunableRunner

from ray_warmup.warmup.device.guard.op_contest import bytes_apart
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.errors import WorkloadError
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads import gemm, recorded
from ray_warmup.warmup.workloads.live_request import PROCESS
from tests import planted_tactics, stubbed_ops


@pytest.fixture(autouse=True)
def _no_requests() -> Iterator[None]:
    """Every test begins and ends without requests."""
    PROCESS.clear()
    yield
    PROCESS.clear()


def record(*runs: Any) -> tuple[Workload, ...]:
    """Record calls; their workloads."""
    with RequestRecorder(PROCESS).recording() as recorder:
        for run in runs:
            run()
    assert recorder.problems == []
    return PROCESS.recording().workloads


def fp8_call(tokens: int = 32) -> Any:
    """A real `bmm_fp8` with tiny values, as an engine's random weights give them."""
    params = (("k", 64), ("n", 48))
    workload = Workload("qkv", "gemm", "fp8_gemm", "cublas", "float8_e4m3fn", params, (tokens,))
    call = gemm.build(workload, tokens, "cpu", 0)
    return replace(call, inputs=tuple(value * 0 if value.numel() == 1 else value for value in call.inputs))


def test_quantised_operands_fill_their_range_and_scales_undo_it() -> None:
    """Whatever the engine's weights hold: output of unit scale per term, layout and keys as recorded."""
    with stubbed_ops.stubbed_gemms():
        (workload,) = record(fp8_call().run)
        call = recorded.build(workload, 8, "cpu", 1)
        a, weight, a_scale, scale = call.inputs[:4]
        output = call.run()
        again = recorded.build(workload, 8, "cpu", 1).run()
        other = recorded.build(workload, 8, "cpu", 2).run()

    assert (tuple(a.shape), a.dtype) == ((1, 8, 64), torch.float8_e4m3fn)
    assert weight.stride() == (48 * 64, 1, 64), "as the engine keeps it"
    assert 0.5 < float(a.float().std() * a_scale) < 2
    assert 0.5 < float(weight.float().std() * scale) < 2
    assert float(a.float().abs().max()) > 200, "a tactic that saturates shows"
    assert (tuple(output.shape), output.dtype) == ((1, 8, 48), torch.bfloat16)
    assert torch.equal(output, again)
    assert not torch.equal(output, other)


def test_each_call_writes_into_a_new_output() -> None:
    """Two outputs of one call are two tensors: the guard compares them."""
    with stubbed_ops.stubbed_gemms():
        (workload,) = record(fp8_call().run)
        call = recorded.build(workload, 8, "cpu", 1)
        first, second = call.run(), call.run()
        assert call.outputs == (4,)
        assert first.data_ptr() != second.data_ptr()
        assert torch.allclose(first.float(), call.reference(), rtol=2e-2, atol=2e-1)


def test_a_narrowed_call_has_the_first_rows_and_the_same_weight() -> None:
    """For sizes below a bucket."""
    (workload,) = record(planted_tactics.build(0, "cpu", 64).run)
    call = recorded.build(workload, 64, "cpu", 0)
    narrow = call.narrowed(33)
    assert torch.allclose(narrow.run(), call.run()[:33], rtol=1e-5, atol=1e-4)
    assert narrow.inputs[1] is call.inputs[1]


def test_another_layers_call_has_its_weight_and_shares_the_rest() -> None:
    """As in a model: activations and the workspace lie in the cache, the weight does not."""
    with stubbed_ops.stubbed_gemms():
        (workload,) = record(fp8_call().run)
        first, other = recorded.build(workload, 8, "cpu", 0), recorded.build(workload, 8, "cpu", 1)
        call = first.with_weights_of(other)
    assert call.all_inputs[1] is other.all_inputs[1]
    for index in range(len(first.all_inputs)):
        if index != 1:
            assert call.all_inputs[index] is first.all_inputs[index]
    assert bytes_apart(call.inputs, first.inputs) == 48 * 64
    assert bytes_apart(other.inputs, first.inputs) > 48 * 64 + 8 * 64


def test_without_a_weight_another_call_is_all_its_own() -> None:
    """Nothing else would evict the first one's inputs."""

    class Sum(planted_tactics.PlantedRunner):
        """Sums of the rows."""

        def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
            """One number per token."""
            return inputs[0].sum(dim=1)

    runner, asked = Sum(), [torch.randn(4, 8), torch.ones(8)]
    (workload,) = record(lambda: AutoTuner.get().choose_one("sum", [runner], planted_tactics.CONFIG, asked))
    first, other = recorded.build(workload, 8, "cpu", 0), recorded.build(workload, 8, "cpu", 1)
    assert first.with_weights_of(other) is other


def test_integers_keep_the_engines_values() -> None:
    """Routing is repeated row by row, so that its spread is the measured one."""

    class Gather(planted_tactics.PlantedRunner):
        """Rows of the weight by index."""

        def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
            """One row per token."""
            rows, weight = inputs
            return weight[rows]

    routing = torch.tensor([3, 1, 3])
    runner = Gather()
    asked = [routing, torch.randn(4, 8)]
    (workload,) = record(lambda: AutoTuner.get().choose_one("gather", [runner], planted_tactics.CONFIG, asked))
    rows = recorded.build(workload, 8, "cpu", 0).inputs[0]
    assert rows.tolist() == [3, 1, 3, 3, 1, 3, 3, 1]


class InPlace(TunableRunner):
    """Adds to its input, or returns nothing."""

    def __init__(self, *, silent: bool) -> None:
        self.silent = silent

    def get_valid_tactics(self, inputs: list[Any], profile: Any) -> list[int]:
        """One."""
        return [0]

    def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
        """Nothing, or the first input plus one."""
        if not self.silent:
            inputs[0] += 1


@pytest.mark.parametrize(("silent", "reason"), [(True, "returns nothing"), (False, "changes an input that it reads")])
def test_results_that_cannot_be_compared_are_refused_by_name(silent: bool, reason: str) -> None:
    """Such a request keeps its default: nothing could be told wrong."""
    runner = InPlace(silent=silent)
    asked = [torch.randn(4, 8), torch.randn(4, 8)]
    (workload,) = record(lambda: AutoTuner.get().choose_one("odd", [runner], planted_tactics.CONFIG, asked))
    assert reason in str(recorded.unsupported_here(workload, "cpu"))


def test_a_request_of_another_process_cannot_be_built() -> None:
    """A workload is a value; the runners behind it are not."""
    (workload,) = record(planted_tactics.build(0, "cpu", 64).run)
    assert recorded.unsupported_here(workload, "cpu") is None
    PROCESS.clear()
    with pytest.raises(WorkloadError, match="this process has not made the request"):
        recorded.build(workload, 64, "cpu", 0)


def test_a_constrained_dimension_is_inferred_by_the_op() -> None:
    """Rows of an output that is twice as long as its input."""
    config = replace(planted_tactics.CONFIG, constraint_specs=(ConstraintSpec(1, 0, lambda shapes: 2 * shapes[0][0]),))
    asked = [torch.randn(4, 8), torch.randn(8, 8)]

    class Doubled(planted_tactics.PlantedRunner):
        """Writes its input twice."""

        def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
            """Into the second one."""
            inputs[1].copy_(torch.cat([inputs[0], inputs[0]]))

    runner = Doubled()
    (workload,) = record(lambda: AutoTuner.get().choose_one("doubled", [runner], config, asked))
    call = recorded.build(workload, 2, "cpu", 0)
    assert call.outputs == (1,)
    assert tuple(call.run().shape) == (4, 8)


def test_an_ops_own_rule_for_its_inputs_is_applied() -> None:
    """As FlashInfer applies it before it times a tactic: a routing that is valid, whatever the initialiser drew."""

    def draw(shape: Any, dtype: torch.dtype, device: Any) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    def hook(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [inputs[0], torch.arange(inputs[0].shape[0], dtype=torch.int32) % 4]

    spec = replace(planted_tactics.CONFIG.dynamic_tensor_specs[0], input_idx=(0, 1), dim_idx=(0, 0))
    config = replace(
        planted_tactics.CONFIG,
        dynamic_tensor_specs=(spec,),
        tensor_initializers=((1, draw),),
        inputs_pre_hook=hook,
    )

    class Routed(TunableRunner):
        """Rows by their expert."""

        def get_valid_tactics(self, inputs: list[Any], profile: Any) -> list[int]:
            """One."""
            return [0]

        def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
            """[M, K]."""
            return inputs[0] * inputs[1][:, None]

    def run() -> None:
        given = [torch.randn(8, 16), torch.full((8,), 3, dtype=torch.int32)]
        runner, tactic = AutoTuner.get().choose_one("routed", [Routed()], config, given)
        runner(given, tactic=tactic)

    (workload,) = record(run)
    routed = recorded.build(workload, 8, "cpu", 0).inputs[1]
    assert routed.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert recorded.build(workload, 8, "cpu", 0, values=False).inputs[1].shape == (8,)
