"""Names of the FlashInfer modules that a workload needs compiled, so that COMPILING can build them first.

Pure: the names follow FlashInfer 0.7's own naming of its build directories, and a test compares each with the
name of the JitSpec that FlashInfer generates. The JitSpecs themselves come from `jit_specs` of each builder.
"""

from __future__ import annotations

from ray_warmup.warmup.tasks import Workload

PROFILER_MODULE = "trtllm_utils"
"""FlashInfer's delay kernel, launched before every timed tactic on CUDA."""

_SHORT_DTYPE = {"bfloat16": "bf16", "float16": "f16", "float8_e4m3fn": "e4m3"}
_FIXED = {
    "bf16_gemm": ("mm_bf16_cublaslt",),
    "fp8_gemm": ("gemm",),
    "rmsnorm": ("norm",),
    "fused_add_rmsnorm": ("norm",),
    "rope": ("rope",),
    "sampling": ("sampling",),
}
MIN_GROUP_FOR_TENSOR_CORES = 4
"""Query heads per key-value head from which decode runs on the prefill kernel's tensor cores."""
FUSED_MOE_CAPABILITY = (9, 0)
"""The one whose fused MoE was looked at; its builder refuses the workload on any other GPU."""
FUSED_MOE_MODULE = "fused_moe_{}{}".format(*FUSED_MOE_CAPABILITY)
"""FlashInfer names this module by the capability that it is compiled for."""


def modules_for(workload: Workload) -> tuple[str, ...]:
    """Return module names in the order of first use, or none on the CPU backend."""
    if workload.backend == "cpu":
        return ()
    if workload.op in _FIXED:
        own = _FIXED[workload.op]
    elif workload.family == "fused_moe":
        own = (FUSED_MOE_MODULE,)
    elif workload.op.startswith("mla"):
        own = (mla_module(workload),)
    elif workload.op == "paged_decode" and not uses_tensor_cores(workload):
        own = (decode_module(workload),)
    else:
        own = (prefill_module(workload),)
    if workload.tunable:
        return (PROFILER_MODULE, *own)
    return own


def uses_tensor_cores(workload: Workload) -> bool:
    """Return True if a paged decode has enough query heads per key head for the prefill kernel to be faster."""
    return is_grouped_enough(int(workload.param("heads")), int(workload.param("kv_heads")))


def is_grouped_enough(heads: int, kv_heads: int) -> bool:
    """Return True for enough query heads per key-value head.

    Tuned workloads and the engine's own attention share this rule.
    """
    return heads // kv_heads >= MIN_GROUP_FOR_TENSOR_CORES


def has_window(workload: Workload) -> bool:
    """Return True if attention has a sliding window, for which FlashInfer compiles a separate module."""
    return "window" in dict(workload.params)


def prefill_module(workload: Workload) -> str:
    """Name of the paged prefill module: causal attention over a cache of the same dtype."""
    return f"batch_prefill_with_kv_cache_{_attention_shape(workload)}_f16qk_False_kv_stride_equal"


def decode_module(workload: Workload) -> str:
    """Name of the paged decode module that runs on the CUDA cores."""
    return f"batch_decode_with_kv_cache_{_attention_shape(workload)}"


def mla_module(workload: Workload) -> str:
    """Name of the latent attention module."""
    ckv, kpe = workload.param("head_dim_ckv"), workload.param("head_dim_kpe")
    return f"batch_mla_attention_{_dtypes(workload)}_head_dim_ckv_{ckv}_head_dim_kpe_{kpe}_profiler_False_planabi2"


def _dtypes(workload: Workload) -> str:
    short = _SHORT_DTYPE[workload.dtype]
    return f"dtype_q_{short}_dtype_kv_{short}_dtype_o_{short}_dtype_idx_i32"


def _attention_shape(workload: Workload) -> str:
    width = workload.param("head_dim")
    widths = f"head_dim_qk_{width}_head_dim_vo_{width}"
    return f"{_dtypes(workload)}_{widths}_posenc_0_use_swa_{has_window(workload)}_use_logits_cap_False"
