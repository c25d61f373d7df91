"""The graph-capture warmup: which sizes, where it does not run, that it captures and replays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, SchedulerLimits
from ray_warmup.warmup.engines.builtin.warmups.all_warmups import ENGINE_WARMUPS
from ray_warmup.warmup.engines.builtin.warmups.graph_capture import GraphCaptureWarmup
from ray_warmup.warmup.engines.builtin.warmups.spec import Shape, Skip
from tests.fakes import ForeignRunner


class Recorder:
    """A captured step that notes its replays."""

    def __init__(self, log: list[str], tokens: int) -> None:
        self._log, self._tokens = log, tokens

    def replay(self) -> None:
        """Note it."""
        self._log.append(f"replay {self._tokens}")


@pytest.fixture
def graph_runner() -> Any:
    """An engine's runner on CUDA that captures; `log` has what it did."""
    limits, cache = SchedulerLimits(64, 32, 64), KVCacheConfig(9, interleaved_groups(1, (4,)))
    runner: Any = ForeignRunner(limits, cache, frozenset({Capability.GRAPH_CAPTURE}), None)
    runner.device, runner.log = "cuda:0", []
    runner.capture_decode = lambda tokens: runner.log.append(f"capture {tokens}") or Recorder(runner.log, tokens)
    return runner


def test_the_largest_and_the_smallest_size_are_captured_and_replayed(make_context: Any, graph_runner: Any) -> None:
    """The runner's own capture sizes, the largest first; each is replayed and waited for."""
    graph_runner.graph_capture_sizes = (2, 8, 16)
    context = make_context(graph_runner, synchronize=lambda: graph_runner.log.append("wait"))
    warmup = GraphCaptureWarmup()

    assert warmup.gate(context) is None
    assert warmup.shapes(context) == (Shape("graph", 16, 16), Shape("graph", 2, 2))
    for shape in warmup.shapes(context):
        warmup.run(context, shape)

    assert graph_runner.log == ["capture 16", "replay 16", "wait", "capture 2", "replay 2", "wait"]


def test_sizes_are_of_requests_and_bounded_by_a_step(make_context: Any, graph_runner: Any) -> None:
    """With two tokens per request the tokens double; a size beyond `max_num_batched_tokens` gives way."""
    graph_runner.graph_capture_sizes, graph_runner.decode_query_len = (1, 8, 40), 2
    context = make_context(graph_runner)

    assert GraphCaptureWarmup().shapes(context) == (Shape("graph", 16, 8), Shape("graph", 2, 1))
    graph_runner.graph_capture_sizes = (40,)
    assert GraphCaptureWarmup().gate(context) == Skip("no capture size fits into max_num_batched_tokens")
    graph_runner.graph_capture_sizes, graph_runner.limits = (4,), replace(graph_runner.limits, max_num_seqs=4)
    assert GraphCaptureWarmup().shapes(context) == (Shape("graph", 8, 4),)


def test_where_nothing_is_captured_the_reason_is_said(make_context: Any, make_runner: Any, graph_runner: Any) -> None:
    """Without CUDA, and with a runner that cannot capture, the warmup is skipped with that reason."""
    skip = GraphCaptureWarmup().gate(make_context(make_runner()))
    assert skip == Skip("device is cpu, not cuda; serving_shapes runs these sizes eagerly")
    graph_runner.capabilities = frozenset()
    assert GraphCaptureWarmup().gate(make_context(graph_runner)) == Skip("runner lacks graph_capture")


def test_it_runs_after_tuning_and_before_the_sampler() -> None:
    """Tactics are baked into a captured graph, so it comes after the autotune."""
    names = [warmup.name for warmup in ENGINE_WARMUPS]
    assert names.index("sm120_decode") < names.index("graph_capture") < names.index("sampler_features")
