"""Models for tests: one that is tiny and real, and what a preset's calls are on a GPU."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ray_warmup.configs.model import ModelDims, load_model
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.catalog import Split, workloads_of

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
}
"""A `config.json` of a few thousand weights."""


def cuda_workloads(model: str | ModelDims, **changes: Any) -> tuple[Workload, ...]:
    """What a model calls on one GPU in bfloat16, up to 256 tokens and 64 sequences; every argument can be replaced."""
    dims = load_model(model) if isinstance(model, str) else model
    values: dict[str, Any] = {
        "dtype": "bfloat16",
        "quantization": "none",
        "backend": "cuda",
        "max_num_batched_tokens": 256,
        "max_num_seqs": 64,
        **changes,
    }
    split = Split(**{field.name: values.pop(field.name) for field in fields(Split) if field.name in values})
    return tuple(workloads_of(dims, split, **values))
