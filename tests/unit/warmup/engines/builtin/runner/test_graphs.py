"""What a CUDA graph of the built-in runner holds can be held by one: after planning, only the device works."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ray_warmup.warmup.engines.builtin.runner.dummy import DummyShape, dummy_batch
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability

HOST_CALLS = (
    (torch, "from_numpy"),
    (torch, "tensor"),
    (torch.Tensor, "tolist"),
    (torch.Tensor, "item"),
    (torch.Tensor, "cpu"),
    (torch.Tensor, "numpy"),
)
"""Copies from or to the host, which a capture refuses."""


class PlannedAttention:
    """Attends on the device alone, as FlashInfer's wrappers do; the torch reference of the CPU reads host arrays."""

    def get_name(self) -> str:
        """PLANNED."""
        return "PLANNED"

    def plan(self, step: Any) -> None:
        """Nothing to keep."""

    def run(self, query: torch.Tensor, *caches: torch.Tensor) -> torch.Tensor:
        """Something of the query."""
        return query * 0.5


def device_work(runner: Any, num_tokens: int) -> Any:
    """What `capture_decode` captures."""
    batch = dummy_batch(num_tokens, DummyShape(uniform_decode=True), runner.limits, 1)
    return runner._dummy_work(batch, np.zeros(num_tokens, dtype=np.int64), 0, attend=True)


def refuse(*args: Any, **named: Any) -> Any:
    """In place of a call that touches the host."""
    raise AssertionError("the host was touched inside the captured part")


def forbid_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on copies from and to the host raise."""
    for owner, name in HOST_CALLS:
        monkeypatch.setattr(owner, name, refuse)


def test_the_captured_part_never_touches_the_host(make_runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding, layers, cache writes and LM head run without a copy; a planted `tolist` in a layer is refused."""
    runner = make_runner(max_num_seqs=4)
    runner.attention_backends = (PlannedAttention(),) * len(runner.attention_backends)
    monkeypatch.setattr(
        "ray_warmup.warmup.engines.builtin.runner.kv_store.scatter_rows", lambda *args: None
    )  # Triton's on a GPU
    with torch.inference_mode():
        work = device_work(runner, 4)
        forbid_the_host(monkeypatch)
        hidden, logits = work()
        assert (hidden.shape, logits.shape) == ((4, 32), (4, 101))
        norm = runner.decoder._ops.rms_norm
        runner.decoder._ops.rms_norm = lambda x, *rest: x.tolist() or norm(x, *rest)
        with pytest.raises(AssertionError, match="host was touched"):
            work()


def test_the_captured_part_reads_the_buffers_each_time(make_runner: Any) -> None:
    """Another token in the input buffer gives other logits in the next run of the same work."""
    runner = make_runner(max_num_seqs=4)
    with torch.inference_mode():
        work = device_work(runner, 4)
        first = work()[1].clone()
        assert torch.equal(work()[1], first)
        runner.input_batch.token_ids.gpu.fill_(9)
        assert not torch.equal(work()[1], first)


def test_a_dummy_run_is_that_work_run_once(make_runner: Any) -> None:
    """`dummy_run` of the same decodes gives the same hidden states and logits."""
    runner = make_runner(max_num_seqs=4)
    expected = runner.dummy_run(4, force_attention=True, uniform_decode=True)
    with torch.inference_mode():
        assert all(map(torch.equal, device_work(runner, 4)(), expected))


def test_without_cuda_nothing_is_captured(make_runner: Any) -> None:
    """On the CPU the capability is not declared."""
    assert Capability.GRAPH_CAPTURE not in make_runner().capabilities


def test_capture_sizes_are_decode_sizes_too(make_runner: Any) -> None:
    """Sizes that were asked for are captured; rows are padded to tuned sizes all the same."""
    runner = make_runner(max_num_seqs=8, capture_sizes=(3, 6))

    assert runner.graph_capture_sizes == (3, 6)
    assert runner.request_sizes == (1, 2, 4, 8)
