"""Builds the rotary embedding of queries and keys from a cosine and sine cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.any_gpu import unsupported_here as unsupported_here
from ray_warmup.warmup.workloads.any_gpu import unsupported_on as unsupported_on

MAX_POSITION = 8192


@dataclass(frozen=True, slots=True, eq=False)
class RopeCall:
    """Queries [tokens, heads * head_dim], keys [tokens, kv_heads * head_dim], positions [tokens], cache."""

    inputs: tuple[Any, ...]
    head_dim: int

    def run(self) -> tuple[Any, Any]:
        """Rotated queries and keys, shaped like the inputs."""
        from flashinfer.rope import apply_rope_with_cos_sin_cache

        query, key, positions, cache = self.inputs
        rotated = apply_rope_with_cos_sin_cache(positions, query, key, self.head_dim, cache)
        return rotated[0], rotated[1]

    def reference(self) -> tuple[Any, Any]:
        """Compute the same result in float32, rotating the two halves of a head against each other."""
        query, key, positions, cache = self.inputs
        cosine, sine = cache[positions].unsqueeze(1).chunk(2, dim=-1)
        return self._turned(query, cosine, sine), self._turned(key, cosine, sine)

    def _turned(self, x: Any, cosine: Any, sine: Any) -> Any:
        import torch

        first, second = x.float().view(x.shape[0], -1, self.head_dim).chunk(2, dim=-1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).flatten(1)


def build(workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True) -> RopeCall:
    """Random activations at random positions."""
    import torch

    width = int(workload.param("head_dim"))
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + tokens)
    options = {"generator": generator, "device": device, "dtype": getattr(torch, workload.dtype)}
    query = torch.randn(tokens, int(workload.param("heads")) * width, **options)
    key = torch.randn(tokens, int(workload.param("kv_heads")) * width, **options)
    positions = torch.randint(0, MAX_POSITION, (tokens,), generator=generator, device=device)
    exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    angles = torch.arange(MAX_POSITION, device=device).unsqueeze(1) * float(workload.param("theta")) ** -exponents
    return RopeCall((query, key, positions, torch.cat([angles.cos(), angles.sin()], dim=-1)), width)


def jit_specs(workload: Workload) -> tuple[Any, ...]:
    """FlashInfer's rope module."""
    from flashinfer.jit.rope import gen_rope_module

    return (gen_rope_module(),)
