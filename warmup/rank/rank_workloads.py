"""The op calls of one rank's share of the model within the requested limits, and those that a GPU would refuse.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ray_warmup.configs import ConfigError
from ray_warmup.configs.dimensions import dimensions_of, with_dimensions
from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.device.memory_budget import fit_buckets
from ray_warmup.warmup.tasks import Skip, Workload
from ray_warmup.warmup.workloads import fused_moe
from ray_warmup.warmup.workloads.base import builder_for
from ray_warmup.warmup.workloads.catalog import split_of, workloads_of
from ray_warmup.warmup.workloads.modules import FUSED_MOE_MODULE


def rank_workloads(config: WarmupConfig, dims: ModelDims, rank: int, backend: str) -> tuple[Workload, ...]:
    """The op calls that a rank's share of the model makes. Raises ConfigError for what the ops cannot run."""
    model, autotune = config.model, config.autotune
    if backend == "cuda" and model.dtype == "float32":
        raise ConfigError("model.dtype: 'float32': only the cpu backend runs it (cluster.backend)")
    found = workloads_of(
        dims,
        split_of(config, rank),
        dtype=model.dtype,
        quantization=model.quantization,
        backend=backend,
        buckets=autotune.buckets,
        skip_ops=autotune.skip_ops,
    )
    return tuple(w for w in found if autotune.families is None or w.family.removeprefix("cpu_") in autotune.families)


def within_budget(
    workloads: Sequence[Workload], budget_bytes: int | None
) -> tuple[tuple[Workload, ...], tuple[str, ...]]:
    """Return the workloads that fit into a memory budget, and the removed buckets in words.

    Without a budget all of them stay.
    """
    if budget_bytes is None:
        return tuple(workloads), ()
    return fit_buckets(workloads, budget_bytes)


def representatives(config: WarmupConfig) -> tuple[int, ...]:
    """The lowest rank of every share of the model that makes calls of its own: a pipeline stage's expert shard."""
    model, found = config.model, dict[tuple[int, int], int]()
    for rank in range(config.cluster.num_ranks):
        split = split_of(config, rank)
        found.setdefault((split.pp_stage, split.ep_shard), rank)
        if len(found) == model.pipeline_parallel_size * model.expert_parallel_size:
            break
    return tuple(found.values())


def checked(config: WarmupConfig) -> WarmupConfig:
    """The configuration with its model's dimensions, after every check that needs no cluster. Raises ConfigError."""
    complete = with_dimensions(config)
    for rank in representatives(complete):
        rank_workloads(complete, dimensions_of(complete), rank, complete.cluster.backend_beside_gpus)
    return complete


def foreseen_skips(
    workloads: Sequence[Workload], capability: tuple[int, int], is_compiled: Callable[[str], bool]
) -> tuple[Skip, ...]:
    """Return the workloads that a rank on a GPU of this compute capability would skip, with one reason each.

    `is_compiled` says whether the node has a module that COMPILING leaves out.
    """
    is_moe_compiled = is_compiled(FUSED_MOE_MODULE)
    skips: list[Skip] = []
    for workload in workloads:
        reason = builder_for(workload).unsupported_on(workload, capability)
        if reason is None and not is_moe_compiled and FUSED_MOE_MODULE in workload.modules:
            reason = fused_moe.NOT_COMPILED
        if reason is not None:
            skips.append(Skip(workload.name, workload.op, reason))
    return tuple(skips)


def runnable(workloads: Sequence[Workload], skips: Sequence[Skip]) -> tuple[Workload, ...]:
    """Return the workloads that are not skipped."""
    skipped = {skip.workload for skip in skips}
    return tuple(workload for workload in workloads if workload.name not in skipped)
