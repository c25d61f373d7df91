"""Replay on a GPU that is not there: what a failed capture means for the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from ray_warmup.warmup.device.replay import replay_calls
from ray_warmup.warmup.errors import DeadContextError
from ray_warmup.warmup.messages.answers import Replayed
from ray_warmup.warmup.workloads import cpu_gemm
from tests.gemms import make_workload, tasks_for

CudaReplay = Callable[[], Replayed]


@pytest.fixture
def dies() -> list[bool]:
    """Whether the context is dead once a capture has failed."""
    return []


@pytest.fixture
def replay(dies: list[bool], monkeypatch: pytest.MonkeyPatch) -> CudaReplay:
    """The replay of one call that runs but cannot be captured; nothing of CUDA is real."""
    failed: list[bool] = []

    @contextmanager
    def graph(captured: object) -> Iterator[None]:
        failed.append(True)
        raise RuntimeError("planted: operation not permitted when stream is capturing")
        yield

    def synchronize(device: object = None) -> None:
        if failed and dies:
            raise RuntimeError("planted: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    (task,) = tasks_for(make_workload(buckets=(2,)))
    build = lambda workload, tokens: cpu_gemm.build(workload, tokens, "cpu", 1)  # noqa: E731
    return lambda: replay_calls([task], build, "cuda:0", lambda watch: None)


def test_a_call_that_cannot_be_captured_has_run(replay: CudaReplay) -> None:
    """It is no failure; only its graph is missing."""
    result = replay()
    assert (result.calls, result.failed, result.graph_captured) == (1, (), 0)


def test_a_context_that_dies_in_the_last_capture_is_noticed(replay: CudaReplay, dies: list[bool]) -> None:
    """No later call would meet it: the rank must not be called ready, its process is replaced."""
    dies.append(True)
    with pytest.raises(DeadContextError, match="illegal memory access"):
        replay()
