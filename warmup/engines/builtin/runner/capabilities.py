"""Capabilities and attention names of the built-in runner by device and model, known before it is created."""

from __future__ import annotations

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability

GQA_CPU, GQA_CUDA = "TORCH_REFERENCE", "FLASHINFER"
MLA_CPU, MLA_CUDA = "TORCH_MLA_REFERENCE", "FLASHINFER_MLA"


def capabilities_on(device_type: str, dims: ModelDims) -> frozenset[Capability]:
    """Everything but a KV connector, and graphs only on CUDA where no experts are chosen on the host."""
    able = device_type == "cuda" and not dims.is_moe
    lacks = {Capability.KV_CONNECTOR} if able else {Capability.KV_CONNECTOR, Capability.GRAPH_CAPTURE}
    return frozenset(Capability) - lacks


def attention_name(device_type: str, dims: ModelDims) -> str:
    """Name of the attention backend of every KV cache group."""
    on_cuda = device_type == "cuda"
    if dims.is_mla:
        return MLA_CUDA if on_cuda else MLA_CPU
    return GQA_CUDA if on_cuda else GQA_CPU
