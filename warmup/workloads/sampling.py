"""Builds top-k and top-p sampling from logits, with one setting per request as a serving engine passes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.any_gpu import unsupported_here as unsupported_here
from ray_warmup.warmup.workloads.any_gpu import unsupported_on as unsupported_on

SEED, OFFSET = 1234, 0
"""Fixed philox state: the call gives equal tokens each time and can be captured in a CUDA graph."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplingCall:
    """Logits [requests, vocab] in float32, top-k [requests] int32, top-p [requests] float32."""

    inputs: tuple[Any, ...]

    def run(self) -> Any:
        """Sample one token per request, [requests] int32."""
        from flashinfer.sampling import top_k_top_p_sampling_from_logits

        logits, top_k, top_p = self.inputs
        return top_k_top_p_sampling_from_logits(logits, top_k, top_p, seed=SEED, offset=OFFSET)

    def reference(self) -> None:
        """Return None, because the drawn token is random.

        `allowed` gives the permitted ones.
        """

    def allowed(self) -> Any:
        """[requests, vocab] of bool: the tokens that may be drawn."""
        import torch

        logits, top_k, top_p = self.inputs
        ordered, tokens = logits.sort(dim=-1, descending=True)
        rank = torch.arange(logits.shape[1], device=logits.device)
        kept = ordered.masked_fill(rank >= top_k.unsqueeze(1), float("-inf")).softmax(-1)
        before = kept.cumsum(-1) - kept
        inside = (before < top_p.unsqueeze(1) + 1e-4) & (rank < top_k.unsqueeze(1))
        return torch.zeros_like(inside).scatter(1, tokens, inside)


def build(workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True) -> SamplingCall:
    """Create logits with a few likely tokens.

    k and p differ by request.
    """
    import torch

    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + tokens)
    options = {"generator": generator, "device": device}
    logits = torch.randn(tokens, int(workload.param("vocab")), **options) * 3
    top_k = torch.randint(1, 100, (tokens,), dtype=torch.int32, **options)
    top_p = torch.rand(tokens, **options) * 0.5 + 0.5
    return SamplingCall((logits, top_k, top_p))


def jit_specs(workload: Workload) -> tuple[Any, ...]:
    """FlashInfer's sampling module."""
    from flashinfer.jit.sampling import gen_sampling_module

    return (gen_sampling_module(),)
