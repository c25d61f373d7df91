"""Warmup leaves no trace: whatever the runner and the process hold is the same before and after."""

from __future__ import annotations

import copy
import os
import random
from typing import Any

import numpy as np
import pytest
import torch

from ray_warmup.configs import env
from ray_warmup.warmup.engines.builtin.runner.schedule import SamplingParams
from ray_warmup.warmup.engines.builtin.runner.scheduler import ServedRequest
from ray_warmup.warmup.engines.builtin.warmups.all_warmups import ENGINE_WARMUPS
from ray_warmup.warmup.engines.builtin.warmups.envelope import leave_no_trace
from ray_warmup.warmup.engines.builtin.warmups.run import run_engine_warmups
from tests.fakes import NamedBackend
from tests.recording_connector import RecordingConnector


def observe(runner: Any) -> dict[str, Any]:
    """Everything that warmup might change, as values that compare."""
    from flashinfer.autotuner import AutoTuner

    state: dict[str, Any] = {name: tensor.clone() for name, tensor in runner.buffers().items()}
    for layer, caches in runner.kv_store.layers.items():
        state |= {f"cache.{layer}.{side}": cache.clone() for side, cache in enumerate(caches)}
    for name, value in vars(runner).items():
        if isinstance(value, torch.Tensor):
            state[f"attribute.{name}"] = value.clone()
    legacy = np.random.get_state()
    return state | {
        "requests": dict(runner.input_batch.requests),
        "pending": runner._pending,
        "connector": runner.kv_connector.disabled,
        "random.python": random.getstate(),
        "random.numpy": (legacy[0], legacy[1].tolist(), *legacy[2:]),
        "random.torch": torch.get_rng_state(),
        "environment": env.snapshot(),
        "tuner.statistics": copy.deepcopy(vars(AutoTuner.get().stats)),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Names of what differs."""
    assert before.keys() == after.keys()
    return {
        name
        for name, value in before.items()
        if not (torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name])
    }


@pytest.mark.parametrize("kind", [{}, {"architecture": "mla"}, {"architecture": "mla_moe"}])
def test_nothing_differs_before_and_after(make_context: Any, make_runner: Any, kind: dict[str, Any]) -> None:
    """Every buffer, block table, cache, random state, environment variable and statistic is as before."""
    heard: list[Any] = []
    runner = make_runner(max_num_seqs=4, kv_connector=RecordingConnector(heard), **kind)
    for tensor in runner.buffers().values():
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) % 7)
    before = observe(runner)

    report = run_engine_warmups(make_context(runner, slot_mapping_for_any=True), ENGINE_WARMUPS)

    assert report.ready
    assert sum(outcome.state == "done" for outcome in report.outcomes) >= 3
    assert changed(before, observe(runner)) == set()
    assert heard == []


def test_sparse_mla_shapes_leave_no_trace_either(make_context: Any, make_runner: Any) -> None:
    """The attention shapes run on the real runner and are not to be seen afterwards."""
    runner = make_runner("mla_moe", max_num_seqs=4)
    sparse = NamedBackend("V4_FLASHMLA_SPARSE")
    context = make_context(runner)
    runner.attention_backends[0].get_name = sparse.get_name
    before = observe(runner)

    report = run_engine_warmups(context, ENGINE_WARMUPS)

    assert report.outcome("sparse_mla").state == "done"
    assert len(report.outcome("sparse_mla").shapes) == 3
    assert changed(before, observe(runner)) == set()


def test_the_comparison_would_notice(make_runner: Any) -> None:
    """One bit of each kind of state, one random draw, one variable, one lookup and one request are noticed by name."""
    from flashinfer.autotuner import AutoTuner

    runner = make_runner()
    before = observe(runner)

    runner.input_batch.seq_lens.gpu[0] += 1
    runner.query_start_loc.cpu[1] += 1
    runner.positions[0] += 1
    runner.block_table.slot_mapping[1, 3] += 1
    runner.block_table.table.gpu[0, 0, 0] += 1
    runner.expert_load[0, 0] += 1
    runner.kv_store.layers[1][0][3, 0] += 1
    runner.input_batch.requests["x"] = None
    runner.kv_connector.set_disabled(True)
    torch.rand(1)
    random.random()
    np.random.rand()
    os.environ["RAY_WARMUP_PLANTED"] = "1"
    AutoTuner.get().stats.cache_misses += 1

    seen = changed(before, observe(runner))
    AutoTuner.get().stats.cache_misses -= 1

    assert seen == {
        *("seq_lens.gpu", "query_start_loc.cpu", "positions.gpu", "expert_load", "attribute.expert_load", "cache.1.0"),
        *("block_table.slot_mapping", "block_table.gpu"),
        *("random.torch", "random.python", "random.numpy"),
        *("requests", "connector", "environment", "tuner.statistics"),
    }


def test_the_device_is_waited_for_before_and_after_buffers_are_put_back(make_context: Any, make_runner: Any) -> None:
    """What the device still has to read keeps its content until it was read; afterwards nothing is under way."""
    runner, seen = make_runner(), list[int]()
    lengths = runner.input_batch.seq_lens.cpu

    with leave_no_trace(make_context(runner, synchronize=lambda: seen.append(int(lengths[0])))):
        lengths[0] = 5

    assert seen == [5, 0]


def test_tuning_statistics_are_put_back(make_context: Any, make_runner: Any) -> None:
    """Lookups that warmup causes in FlashInfer's tuner do not show in its statistics."""
    from flashinfer.autotuner import AutoTuner

    tuner, before = AutoTuner.get(), copy.deepcopy(vars(AutoTuner.get().stats))

    with leave_no_trace(make_context(make_runner())):
        tuner.stats.cache_misses += 5

    assert vars(AutoTuner.get().stats) == before


@pytest.mark.parametrize("architecture", ["dense", "mla", "moe"])
def test_real_requests_get_the_same_tokens_with_and_without_warmup(
    make_context: Any, make_runner: Any, serve: Any, architecture: str
) -> None:
    """Greedy and unseeded random requests get equal tokens from a warmed and from an unwarmed runner."""

    def tokens(warm: bool) -> dict[str, list[int]]:
        torch.manual_seed(5)
        runner = make_runner(architecture)
        if warm:
            assert run_engine_warmups(make_context(runner, slot_mapping_for_any=True), ENGINE_WARMUPS).ready
        sampling = (SamplingParams.greedy(), SamplingParams(top_k=5))
        requests = [ServedRequest(f"r{i}", tuple(range(3 + 5 * i)), 6, sampling[i % 2]) for i in range(6)]
        return serve(runner, requests, chunk=9)

    assert tokens(warm=True) == tokens(warm=False)
