"""Fused experts as an engine asks for them, with FlashInfer's real function, AutoTuner and keys: judged by the layer.

The compiled library behind them is replaced by torch, with planted tactics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flashinfer.autotuner import AutoTuner
from flashinfer.fused_moe import cutlass_fused_moe

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.guard import op_contest
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.device.table_proof import LookupWatch
from ray_warmup.warmup.tasks import Choice, Measurement, Task, TaskResult
from ray_warmup.warmup.workloads import recorded
from ray_warmup.warmup.workloads.fused_moe import mixture
from ray_warmup.warmup.workloads.live_request import PROCESS, LiveRequests
from ray_warmup.warmup.workloads.recorded_experts import POSITION_OF_OP, RUNNER, RecordedExperts
from tests.stubbed_ops import stubbed_experts
from tests.tuner_options import tuner_options

GEMM1, GEMM2 = POSITION_OF_OP
EXPERTS, TOP_K, HIDDEN, INTER, TOKENS = 16, 2, 256, 128, 24
FAST, WRONG, CRASH, SLOW = range(4)
"""Planted tactics of each GEMM; the default (-1) takes its time."""
OPTIONS = tuner_options(guard_rounds=31, shortlist=4)


class Layer:
    """In place of the compiled runner of one form of experts."""

    hidden: list[torch.Tensor]
    """The activations between the GEMMs of the last call, as float32."""
    saturated = 0.0
    """Part of them that left the range of fp8 in the last call."""

    def get_gemm1_tactic_count(self) -> int:
        """The planted ones."""
        return 4

    get_gemm2_tactic_count = get_gemm1_tactic_count

    def get_tactic_occupancy(self, tactic: int) -> int:
        """Each fits."""
        return 1

    def run_gemm_profile(self, *arguments: Any) -> None:
        """Takes its time and returns nothing."""
        _act(arguments[-4], [])

    def run_moe(self, output: torch.Tensor, *arguments: Any) -> None:
        """The layer with the tactics of both GEMMs."""
        (x, experts, weights, fc1, _, fc2, _, scales), tactics = arguments[:8], arguments[-4]
        ep_rank = arguments[-9]
        result = self._layer(x, experts - ep_rank * fc1.shape[0], weights, fc1, fc2, scales)
        output.copy_(result)
        for tactic in tactics:
            _act(tactic, [output])

    def _layer(self, x: Any, experts: Any, weights: Any, fc1: Any, fc2: Any, scales: list[Any]) -> torch.Tensor:
        if not scales:
            return mixture(x, experts, weights, fc1, fc2, torch.float32)
        if len(scales) == 2:
            wide = [part.float() * _spread(scale, part) for part, scale in zip((fc1, fc2), scales, strict=True)]
            Layer.hidden = [_hidden(x.float(), experts, wide[0])]
            return mixture(x.float(), experts, weights, *wide, torch.float32)
        first, quantise, second, step = scales
        wide_x = x.float() * step
        wide_1, wide_2 = fc1.float() * (first / step)[:, None, None], fc2.float() * (second * quantise)[:, None, None]
        Layer.hidden = [_hidden(wide_x, experts, wide_1)]
        Layer.saturated = float((Layer.hidden[0].abs() * quantise > 448).float().mean())
        return mixture(wide_x, experts, weights, wide_1, wide_2, torch.float32)


def _hidden(x: torch.Tensor, experts: torch.Tensor, fc1: torch.Tensor) -> torch.Tensor:
    """Activations between the GEMMs, of each token's first expert."""
    linear, gate = torch.einsum("th,tih->ti", x, fc1[experts[:, 0].long()]).chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * linear


def _spread(scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Block scales over the weight that they scale."""
    wide = scale.repeat_interleave(128, 1).repeat_interleave(128, 2)
    return wide[:, : weight.shape[1], : weight.shape[2]]


def _act(tactic: int, outputs: list[torch.Tensor]) -> None:
    """What a planted tactic does, to the layer's output where there is one."""
    kind = -1 if tactic == -1 else tactic % 4
    time.sleep({FAST: 0.0, SLOW: 0.015}.get(kind, 0.005))
    if kind == CRASH:
        raise RuntimeError("planted crash")
    if kind == WRONG:
        for output in outputs:
            output *= 1.1


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FlashInfer's module is `Layer`; no request and no table before and after; time for every round."""
    monkeypatch.setattr(op_contest, "CPU_BUDGET_S", 5.0)
    with stubbed_experts(Layer):
        torch.set_num_threads(1)
        PROCESS.clear()
        AutoTuner.get().clear_cache()
        yield
        PROCESS.clear()
        AutoTuner.get().clear_cache()


def forward(tokens: int = TOKENS, dtype: torch.dtype = torch.bfloat16, **options: Any) -> None:
    """An engine's layer with tiny weights, and one token repeated: all goes to the same experts."""
    local = EXPERTS // options.get("ep_size", 1)
    is_block = options.get("use_deepseek_fp8_block_scale", False)
    x = torch.full((tokens, HIDDEN), 0.01).to(torch.bfloat16 if is_block else dtype)
    fc1, fc2 = torch.full((local, 2 * INTER, HIDDEN), 1e-3), torch.full((local, HIDDEN, INTER), 1e-3)
    experts = torch.tensor([[0, 1]], dtype=torch.int32).repeat(tokens, 1)
    scales: list[torch.Tensor] = []
    if is_block:
        scales = [torch.ones(local, 2 * INTER // 128, HIDDEN // 128), torch.ones(local, HIDDEN // 128, INTER // 128)]
    elif dtype.itemsize == 1:
        scales = [torch.ones(local), torch.ones(()), torch.ones(local), torch.ones(())]
    cutlass_fused_moe(
        x, experts, torch.full((tokens, TOP_K), 0.5), fc1.to(dtype), fc2.to(dtype), torch.bfloat16, scales, **options
    )


def record(**options: Any) -> None:
    """A recorded forward."""
    recorder = RequestRecorder(PROCESS)
    with recorder.recording():
        forward(**options)
    assert recorder.problems == []


def call_of(op: str, tokens: int) -> RecordedExperts:
    """The recorded request of one GEMM with new inputs."""
    (workload,) = (one for one in PROCESS.recording().workloads if one.op == op)
    call = recorded.build(workload, tokens, "cpu", 0)
    assert isinstance(call, RecordedExperts)
    return call


@pytest.mark.parametrize("op", [GEMM1, GEMM2])
@pytest.mark.parametrize(("kind", "decision"), [(FAST, "kept"), (WRONG, "wrong"), (CRASH, "crashed"), (SLOW, "slower")])
def test_the_guard_refuses_planted_tactics_of_recorded_experts(op: str, kind: int, decision: str) -> None:
    """Each GEMM's tactic is judged by the result of the layer."""
    record()
    tuner = FlashInferTuner("cpu", OPTIONS)
    assert tuner.prepare(PROCESS.recording().workloads) == ()
    (workload,) = (one for one in PROCESS.recording().workloads if one.op == op)
    task, tactic = Task(workload, 16), kind + 4 * POSITION_OF_OP[op]
    rows = (Measurement(RUNNER, tactic, 1e-3, 0.0, 1),)
    result = TaskResult(task.task_id, op, 16, "tuned", Choice(RUNNER, tactic), RUNNER, measurements=rows)
    verdict = tuner.guard(task, result).verdict
    assert (verdict.decision, verdict.choice.tactic) == (decision, tactic if decision == "kept" else -1)


def test_recorded_experts_are_tuned_and_hit_by_the_engines_own_layer(tmp_path: Path) -> None:
    """Both GEMMs: a table of the tactics that are right and fast, under the keys with which the layer looks up."""
    record(tokens=2)
    tuner = FlashInferTuner("cpu", OPTIONS)
    recording = PROCESS.recording()
    assert tuner.prepare(recording.workloads) == ()
    results = [tuner.tune(task) for task in recording.tasks]
    chosen = sorted((row.op, row.choice and row.choice.tactic) for row in results)
    assert chosen == [(GEMM1, FAST)] * 2 + [(GEMM2, FAST + 4)] * 2
    verdicts = [tuner.guard(task, row).verdict for task, row in zip(recording.tasks, results, strict=True)]
    table = tuner.table(results, verdicts)
    assert table is not None

    path = tmp_path / "table.json"
    path.write_bytes(table)
    assert tuner.load(path, recording.tasks).misses == ()
    assert tuner.replay(recording.tasks).failed == ()
    PROCESS.clear()
    watch = LookupWatch(parse_table(table), (recording,), LiveRequests())
    with watch.watching():
        forward(tokens=2)
        forward(tokens=1)
    proof = watch.proof()
    assert (proof.own_hits, proof.own_misses, proof.misses) == (4, (), ())
    assert proof.hits == proof.entries == len(recording.tasks)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_reference_is_that_of_the_ranks_own_shard(rank: int) -> None:
    """Tokens that go to experts of other shards add nothing."""
    record(ep_size=2, ep_rank=rank)
    call = call_of(GEMM1, 16)
    assert torch.allclose(call.run().float(), call.reference(), atol=0.02, rtol=0.02)
    narrow = call.narrowed(5)
    assert torch.allclose(narrow.run().float(), call.reference()[:5], atol=0.02, rtol=0.02)
    assert 0.1 < float(call.run().float().std()) < 2, "unit scale"


def test_a_copy_for_the_lap_has_other_experts_and_the_same_tokens() -> None:
    """As the layers of a model have: activations lie in the cache, weights come from memory."""
    record()
    (workload,) = (one for one in PROCESS.recording().workloads if one.op == GEMM1)
    first, other = (recorded.build(workload, 8, "cpu", seed) for seed in (0, 1))
    assert isinstance(first, RecordedExperts)
    assert isinstance(other, RecordedExperts)
    copy = first.with_weights_of(other)
    assert copy.given[0] is first.given[0]
    assert copy.routes is first.routes
    assert copy.given[1] is other.given[1]
    assert copy.given[3] is other.given[3]
    assert not torch.equal(copy.given[1], first.given[1])


def test_routing_is_drawn_with_a_spread_although_the_engine_repeats_one_token() -> None:
    """No expert is left out and none has the average alone; the load of the busiest one is that of a real router."""
    record()
    experts, weights = call_of(GEMM2, 2048).routes
    loads = torch.bincount(experts.flatten().long(), minlength=EXPERTS).float()
    assert loads.min() > 0
    assert 1.2 < float(loads.max() / loads.mean()) < 4
    assert all(len(set(row)) == TOP_K for row in experts[:50].tolist())
    assert torch.allclose(weights.sum(-1), torch.ones(2048))


def test_another_layers_call_has_its_experts_and_the_same_tokens() -> None:
    """As a model's next layer: tokens and routing lie in the cache, the experts do not."""
    record()
    first = call_of(GEMM1, 16)
    other = recorded.build(first.live.request.workload(), 16, "cpu", 1)
    assert isinstance(other, RecordedExperts)
    call = first.with_weights_of(other)
    assert (call.given[0] is first.given[0], call.routes is first.routes) == (True, True)
    assert (call.given[1] is other.given[1], call.given[3] is other.given[3]) == (True, True)


@pytest.mark.parametrize("is_block", [False, True])
def test_scales_of_fp8_experts_give_activations_of_unit_scale(is_block: bool) -> None:
    """Per tensor and in blocks of 128: operands fill their range, and what comes of them is in range."""
    options = {"use_deepseek_fp8_block_scale": True} if is_block else {}
    record(dtype=torch.float8_e4m3fn, **options)
    call = call_of(GEMM1, 64)
    assert call.given[1].float().abs().max() == 448
    output = call.run().float()
    assert 0.1 < float(Layer.hidden[0].std()) < 2
    assert Layer.saturated < 0.01
    assert 0.1 < float(output.std()) < 2
    assert call.reference() is None


def test_experts_that_do_not_run_here_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is measured."""
    record()

    def refuse(*_: Any) -> None:
        raise RuntimeError("planted refusal")

    monkeypatch.setattr(Layer, "run_moe", refuse)
    skips = FlashInferTuner("cpu", OPTIONS).prepare(PROCESS.recording().workloads)
    assert [skip.reason for skip in skips] == ["RuntimeError: planted refusal"] * 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"enable_alltoall": True}, "enable_alltoall: only the engine knows"),
        ({"use_packed_weights": True}, "use_packed_weights: only the engine knows"),
        ({"cluster_size": 2}, "over a cluster of 2 GPUs is not covered"),
    ],
)
def test_experts_that_are_not_covered_are_named(options: dict[str, Any], reason: str) -> None:
    """They keep their default."""
    record(**options)
    skips = FlashInferTuner("cpu", OPTIONS).prepare(PROCESS.recording().workloads)
    assert len(skips) == 2
    assert all(reason in skip.reason for skip in skips)
