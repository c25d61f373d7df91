"""The engine warmups on the built-in runner, for a rank that has no engine of its own.

Most of an engine's start-up compilations depend only on the model's dimensions and the limits. A rank can therefore run
them with random weights and few layers, before any engine exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch

from ray_warmup.warmup.engines.builtin.runner.builtin import BuiltinRunner
from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig
from ray_warmup.warmup.engines.builtin.warmups.all_warmups import ENGINE_WARMUPS
from ray_warmup.warmup.engines.builtin.warmups.engine_outline import weight_bytes
from ray_warmup.warmup.engines.builtin.warmups.outcome import EngineWarmupReport
from ray_warmup.warmup.engines.builtin.warmups.run import run_engine_warmups
from ray_warmup.warmup.engines.builtin.warmups.spec import EngineWarmup, EngineWarmupOptions, WarmupContext
from ray_warmup.warmup.workloads.paged_attention import WORKSPACE_BYTES

HEADROOM_BYTES = 2 << 30
"""Device memory beside weights and KV cache that a step takes: activations, logits, the sampler's copies."""


@dataclass(slots=True)
class BuiltinEngine:
    """One rank's engine.

    Its runner is created on first use and released with the engine.
    """

    outline: RunnerConfig
    options: EngineWarmupOptions = field(default_factory=EngineWarmupOptions)
    capability: tuple[int, int] | None = None
    """Compute capability; None: torch is asked."""
    _runner: BuiltinRunner | None = None

    def shortage(self) -> str | None:
        """Return the reason why the runner does not fit on the device, or None."""
        if not self._on_cuda:
            return None
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # torch's own, to be used again
        free, needed = (
            torch.cuda.mem_get_info()[0] + kept,
            weight_bytes(self.outline) + WORKSPACE_BYTES + HEADROOM_BYTES,
        )
        if needed <= free:
            return None
        return (
            f"the runner needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on the device; "
            "lower engine.num_layers or engine.kv_blocks"
        )

    @property
    def runner(self) -> BuiltinRunner:
        """The runner, made on first use."""
        if self._runner is None:
            self._runner = BuiltinRunner(self.outline)
        return self._runner

    def context(self, *, is_leader: bool = False) -> WarmupContext:
        """Return this rank's warmup context.

        Only a leader tunes.
        """
        runner, capability = self.runner, self.capability
        if capability is None and self._on_cuda:
            capability = torch.cuda.get_device_capability()
        return WarmupContext(
            runner,
            runner.execute_model,
            runner.sample_tokens,
            self.synchronize,
            self.options,
            is_leader=is_leader,
            capability=capability,
        )

    def warm(
        self,
        warmups: Sequence[EngineWarmup] = ENGINE_WARMUPS,
        *,
        is_leader: bool = False,
        left_out: Mapping[str, str] = MappingProxyType({}),
        announce: Callable[[str], None] | None = None,
    ) -> EngineWarmupReport:
        """Run the engine warmups once.

        Args:
            warmups: in order.
            is_leader: whether this rank tunes for its class.
            left_out: names of warmups that are not tried again, and why.
            announce: told each warmup's name before it begins.
        """
        context = self.context(is_leader=is_leader)
        options = replace(self.options, left_out=left_out)
        report = run_engine_warmups(replace(context, options=options), warmups, announce=announce)
        in_torch = self.runner.projections.fallbacks
        return replace(report, fallbacks=tuple(f"{name} ran in torch: {reason}" for name, reason in in_torch.items()))

    def synchronize(self) -> None:
        """Wait for the device.

        On the CPU every call is synchronous.
        """
        if self._on_cuda:
            torch.cuda.synchronize()

    def close(self) -> None:
        """Release the runner's memory.

        Compiled code stays.
        """
        self._runner = None
        if self._on_cuda:
            torch.cuda.empty_cache()

    @property
    def _on_cuda(self) -> bool:
        return self.outline.device == "cuda"
