"""Configuration of a built-in runner, and what follows from it before the runner exists. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.kernels.launch import LaunchMode, default_mode
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, SchedulerLimits
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.catalog import Split, workloads_of

if TYPE_CHECKING:
    import torch

GQA_CPU, GQA_CUDA = "TORCH_REFERENCE", "FLASHINFER"
MLA_CPU, MLA_CUDA = "TORCH_MLA_REFERENCE", "FLASHINFER_MLA"


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """One built-in runner (one rank, or one pipeline stage of one)."""

    dims: ModelDims
    limits: SchedulerLimits
    kv_cache: KVCacheConfig
    """Its groups cover layers 0..n-1; that is how many layers the runner has."""
    device: str = "cpu"
    dtype: str = "float32"
    """torch dtype name of weights, activations and cache."""
    seed: int = 0
    """Of the random weights."""
    is_first_pp_rank: bool = True
    is_last_pp_rank: bool = True
    workloads: tuple[Workload, ...] = ()
    """The op calls of this rank's share of the model (`layer_calls`); empty: those of the whole of `dims`."""
    capture_sizes: tuple[int, ...] | None = None
    """Requests in captured decode steps; None: powers of two up to the largest number of requests."""
    kernel_mode: LaunchMode | None = None
    """Launch mode of Triton kernels. None: compiled on CUDA, torch reference elsewhere."""

    def __post_init__(self) -> None:
        layers = sorted(layer for group in self.kv_cache.groups for layer in group.layers)
        if layers != list(range(len(layers))):
            raise ValueError(f"runner.kv_cache covers layers {layers}, must be 0..{len(layers) - 1}")

    @property
    def device_type(self) -> str:
        """`cuda` or `cpu`, without the device's number."""
        return self.device.partition(":")[0]

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch has it."""
        import torch

        found = getattr(torch, self.dtype, None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"runner.dtype is {self.dtype!r}, not a torch dtype")
        return found

    @property
    def calls(self) -> tuple[Workload, ...]:
        """The op calls that the layers make."""
        backend = "cuda" if self.device_type == "cuda" else "cpu"
        return self.workloads or layer_calls(self.dims, whole_model(self.limits), backend=backend, dtype=self.dtype)

    @property
    def mode(self) -> LaunchMode:
        """Return the launch mode of Triton kernels."""
        return self.kernel_mode or default_mode(self.device_type)


def whole_model(limits: SchedulerLimits) -> Split:
    """The place of the one rank that has all of a model."""
    return Split(max_num_batched_tokens=limits.max_num_batched_tokens, max_num_seqs=limits.max_num_seqs)


def layer_calls(
    dims: ModelDims, split: Split, *, backend: str, dtype: str, quantization: str = "none"
) -> tuple[Workload, ...]:
    """Every op call of one rank at all of its buckets, whatever of it is tuned.

    The CPU backend has no fused experts. Their calls are listed for the shapes of the weights, and skipped.
    """
    make = partial(workloads_of, dims, split, quantization=quantization)
    found = make(backend=backend, dtype=dtype)
    if backend == "cuda":
        return found
    return (*found, *(call for call in make(backend="cuda", dtype="bfloat16") if call.family == "fused_moe"))


def capabilities_on(device_type: str, dims: ModelDims) -> frozenset[Capability]:
    """Return everything but a KV connector, and graphs only on CUDA if the host chooses no experts."""
    able = device_type == "cuda" and not dims.is_moe
    lacks = {Capability.KV_CONNECTOR} if able else {Capability.KV_CONNECTOR, Capability.GRAPH_CAPTURE}
    return frozenset(Capability) - lacks


def attention_name(device_type: str, dims: ModelDims) -> str:
    """Name of the attention backend of every KV cache group."""
    on_cuda = device_type == "cuda"
    if dims.is_mla:
        if on_cuda:
            return MLA_CUDA
        return MLA_CPU
    if on_cuda:
        return GQA_CUDA
    return GQA_CPU
