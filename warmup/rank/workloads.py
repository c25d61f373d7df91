"""Which op calls one rank makes: its share of the model, within the limits that were asked for. Pure."""

from __future__ import annotations

from configs import ConfigError
from configs.model import ModelDims
from configs.schema import WarmupConfig
from warmup.ranks import share_of
from warmup.tasks import Workload
from warmup.workloads.catalog import workloads_of


def rank_workloads(config: WarmupConfig, dims: ModelDims, rank: int, backend: str) -> tuple[Workload, ...]:
    """The op calls that a rank's share of the model makes. Raises ConfigError for what the ops cannot run."""
    model, autotune = config.model, config.autotune
    if backend == "cuda" and model.dtype == "float32":
        raise ConfigError("model.dtype: 'float32': only the cpu backend runs it (cluster.backend)")
    share = share_of(rank, model.tensor_parallel_size, model.pipeline_parallel_size, model.expert_parallel_size)
    found = workloads_of(
        dims,
        tp=model.tensor_parallel_size,
        pp=model.pipeline_parallel_size,
        ep=model.expert_parallel_size,
        pp_stage=share.pipeline_stage,
        ep_shard=share.expert_shard,
        dtype=model.dtype,
        quantization=model.quantization,
        backend=backend,
        max_num_batched_tokens=autotune.max_num_batched_tokens,
        max_num_seqs=autotune.max_num_seqs,
        buckets=autotune.buckets,
        skip_ops=autotune.skip_ops,
    )
    return tuple(w for w in found if autotune.families is None or w.family.removeprefix("cpu_") in autotune.families)
