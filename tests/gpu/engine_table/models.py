"""Model folders of the measurements: a dense model with a checkpoint of random weights, and a config alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.gpu.engine_study.model_folders import DENSE, EXPERTS, write

DEVIATION = 0.04
"""Standard deviation of random weights: with norms of 1, answers differ from prompt to prompt."""


def dense(folder: Path) -> Path:
    """Write Qwen3-0.6B with a checkpoint: matrices of random numbers, norm weights of 1. One that is there is kept."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from safetensors.torch import save_file  # type: ignore[import-not-found]

    write(folder, DENSE)
    generator = torch.Generator("cpu").manual_seed(7)
    tensors = {}
    for name, shape in shapes(DENSE).items():
        values = torch.ones(shape) if "norm" in name else torch.randn(shape, generator=generator) * DEVIATION
        tensors[name] = values.to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def experts(folder: Path) -> Path:
    """Write Qwen3-30B-A3B in block fp8, a config alone: its weights are random numbers of the engine."""
    return write(folder, EXPERTS)


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight of a Qwen3 model with tied embeddings."""
    hidden, middle, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "mlp.gate_proj.weight": (middle, hidden),
        "mlp.up_proj.weight": (middle, hidden),
        "mlp.down_proj.weight": (hidden, middle),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for index in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return found | {"model.norm.weight": (hidden,)}
