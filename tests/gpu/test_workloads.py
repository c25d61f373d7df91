"""Each builder's calls on a GPU: the result is the reference's, and the call can be captured in a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from ray_warmup.configs.model import load_model
from ray_warmup.warmup.device.guard.agreement import disagreement
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.base import builder_for
from ray_warmup.warmup.workloads.sampling import SamplingCall
from tests.models import cuda_workloads

DEVICE = "cuda:0"
SIZES = (1, 8, 256)


def workloads() -> list[Workload]:
    """A dense model's, a grouped one with few heads, a latent one's and a MoE's; fp8 GEMMs and windows, too."""
    found: dict[str, Workload] = {}
    for preset, tp, quantization in (
        ("llama-3.1-70b", 8, "none"),
        ("llama-3.1-70b", 8, "fp8"),
        ("qwen3-0.6b", 1, "none"),
        ("deepseek-v3", 8, "none"),
        ("qwen3-30b-a3b", 1, "none"),
    ):
        for workload in cuda_workloads(preset, tp=tp, quantization=quantization, max_num_seqs=256):
            found.setdefault(workload.identity, workload)
    for preset in ("llama-3.1-8b", "qwen3-0.6b"):  # decode with and without tensor cores
        windowed = load_model(preset).model_copy(update={"sliding_window": 100})
        for workload in cuda_workloads(windowed, max_num_seqs=256):
            if workload.family == "attention":
                found.setdefault(workload.identity, workload)
    return list(found.values())


@pytest.mark.parametrize("workload", workloads(), ids=lambda workload: workload.identity)
def test_a_call_is_right_and_can_be_captured(workload: Workload) -> None:
    """At 1, 8 and 256 tokens the output is near the reference, eagerly and from a replayed graph."""
    builder = builder_for(workload)
    reason = builder.unsupported_here(workload, DEVICE)
    if reason is not None:
        pytest.skip(reason)
    with torch.inference_mode():
        for tokens in SIZES:
            call = builder.build(workload, tokens, DEVICE, 1)
            eager = call.run()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = call.run()
            graph.replay()
            torch.cuda.synchronize()
            if isinstance(call, SamplingCall):
                assert bool(call.allowed().gather(1, captured.long().unsqueeze(1)).all())
                continue
            expected = call.reference()
            dtype = workload.dtype
            assert disagreement(eager, expected, dtype) is None, (tokens, disagreement(eager, expected, dtype))
            assert disagreement(captured, expected, dtype) is None, tokens
