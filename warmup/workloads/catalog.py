"""The op calls that a model makes on one rank, as pure values without torch or FlashInfer.

    split_of(config, rank) -> Split
    workloads_of(dims, split, *, dtype, quantization, backend, buckets=None, skip_ops=()) -> tuple[Workload, ...]
    op_buckets(op, max_tokens) -> tuple[int, ...]
    select_buckets(op, max_tokens, wanted) -> tuple[int, ...]     ConfigError for a size that would never hit

How a call is made is the business of the other files here, one op family each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.ranks import share_of
from ray_warmup.warmup.tasks import Scalar, Workload
from ray_warmup.warmup.workloads.modules import modules_for

Backend = Literal["cuda", "cpu"]
Quantization = Literal["none", "fp8"]

MOE_GEMM1 = "trtllm::fused_moe::gemm1"
MOE_GEMM2 = "trtllm::fused_moe::gemm2"
MOE_OPS = (MOE_GEMM1, MOE_GEMM2)
FP8_MIN_CAPABILITY = (8, 9)

_VOCAB_PADDING = 64
_POWERS_END, _FINE_END, _COARSE_END = 256, 2048, 4096
_FINE_STEP, _COARSE_STEP = 256, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One rank's place in the model, and the limits of a step."""

    max_num_batched_tokens: int
    max_num_seqs: int
    tp: int = 1
    pp: int = 1
    ep: int = 1
    pp_stage: int = 0
    """0 to pp - 1; only the last stage has the LM head and samples."""
    ep_shard: int = 0
    """0 to ep - 1; equal shards are equal work, so it only says who runs it."""

    @property
    def moe_tp(self) -> int:
        """Return the number of ranks that share one expert's width."""
        return max(1, self.tp // self.ep)


def split_of(config: WarmupConfig, rank: int) -> Split:
    """The place of a configuration's rank."""
    model, autotune = config.model, config.autotune
    share = share_of(rank, model.tensor_parallel_size, model.pipeline_parallel_size, model.expert_parallel_size)
    return Split(
        tp=model.tensor_parallel_size,
        pp=model.pipeline_parallel_size,
        ep=model.expert_parallel_size,
        pp_stage=share.pipeline_stage,
        ep_shard=share.expert_shard,
        max_num_batched_tokens=autotune.max_num_batched_tokens,
        max_num_seqs=min(autotune.max_num_seqs, autotune.max_num_batched_tokens),
    )


def workloads_of(
    dims: ModelDims,
    split: Split,
    *,
    dtype: str,
    quantization: str,
    backend: str,
    buckets: Sequence[int] | None = None,
    skip_ops: Collection[str] = (),
) -> tuple[Workload, ...]:
    """Every op call of one rank, in the order in which a layer runs them.

    Args:
        dims: the model; `ray_warmup.configs.model.check_parallel` has accepted the parallel sizes.
        split: the rank's place, and the limits of a step.
        dtype: torch name of the activations, `bfloat16` for the tuned GEMMs on CUDA.
        quantization: `none` or `fp8` (the layers' GEMMs; router and LM head keep `dtype`).
        backend: `cuda`, or `cpu` for the float32 GEMMs alone.
        buckets: a selection among the op's own buckets; None for all of them.
        skip_ops: FlashInfer op names that keep their default: compiled and replayed, never timed.

    Raises:
        ConfigError: a bucket that the op does not have.
    """
    if backend == "cpu":
        found = [cpu_gemm(workload) for workload in gemms(dims, split, "float32", "none")]
    else:
        found = [
            *gemms(dims, split, dtype, quantization),
            *fused_moe(dims, split, dtype),
            *attention(dims, split, dtype),
            *pointwise(dims, split, dtype),
        ]
    return tuple(_limited(workload, split, buckets, skip_ops) for workload in found)


def op_buckets(op: str, max_tokens: int) -> tuple[int, ...]:
    """The numbers of tokens at which an op is tuned, ascending, up to `max_tokens`.

    Powers of two up to 256, then steps of 256 up to 2048, of 512 up to 4096, then powers of two. Serving rounds a
    size up to this grid, so a maximum between two buckets is rounded up too; the fused MoE ops clamp to the
    maximum itself instead. (FlashInfer 0.7: `fused_moe/utils.py`; a test compares the two.)
    """
    if max_tokens < 1:
        raise ConfigError(f"autotune.max_num_batched_tokens: {max_tokens}; must be at least 1")
    grid = [size for size in _grid() if size <= max_tokens]
    last = max_tokens
    if op not in MOE_OPS:
        last = next(size for size in _grid(max_tokens) if size >= max_tokens)
    return tuple(sorted({*grid, last}))


def select_buckets(op: str, max_tokens: int, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Check `wanted` against the op's own buckets.

    None selects all of them.

    Raises:
        ConfigError: a size that the op does not have: an entry tuned there would never be found in serving.
    """
    own = op_buckets(op, max_tokens)
    if wanted is None:
        return own
    foreign = sorted(set(wanted) - set(own))
    if foreign:
        raise ConfigError(
            f"autotune.buckets: {foreign[0]} is not a bucket of {op}; up to max_num_batched_tokens={max_tokens} "
            f"it has {', '.join(map(str, own))}"
        )
    return tuple(sorted(set(wanted)))


def check_quantization(quantization: str, capability: tuple[int, int]) -> None:
    """Raise ConfigError when the GPU's compute capability has no arithmetic for this quantization."""
    if quantization == "fp8" and capability < FP8_MIN_CAPABILITY:
        raise ConfigError(
            f"model.quantization: 'fp8' needs compute capability {FP8_MIN_CAPABILITY[0]}.{FP8_MIN_CAPABILITY[1]} "
            f"or newer; this GPU has {capability[0]}.{capability[1]}"
        )


def layers_of_stage(num_layers: int, pp: int, pp_stage: int) -> range:
    """Return the decoder layers of one pipeline stage.

    The first stages take the remainder, one layer each.
    """
    share, extra = divmod(num_layers, pp)
    start = pp_stage * share + min(pp_stage, extra)
    return range(start, start + share + (pp_stage < extra))


def gemms(dims: ModelDims, split: Split, dtype: str, quantization: str) -> Iterator[Workload]:
    """Attention projections, feed-forward, router and LM head of one rank."""
    layers = layers_of_stage(dims.num_hidden_layers, split.pp, split.pp_stage)
    stage = f"pipeline stage {split.pp_stage} of {split.pp}"
    for name, k, n in _attention_gemms(dims, split.tp):
        yield gemm(name, k, n, dtype, quantization, stage)
    dense = dims.dense_of(layers)
    if dense:
        yield gemm("gate_up_proj", dims.hidden_size, 2 * dims.intermediate_size // split.tp, dtype, quantization, stage)
        yield gemm("down_proj", dims.intermediate_size // split.tp, dims.hidden_size, dtype, quantization, stage)
    if len(dense) < len(layers):
        yield gemm("router", dims.hidden_size, dims.num_experts, dtype, "none", stage)
        if dims.num_shared_experts:
            width = dims.num_shared_experts * dims.moe_intermediate_size // split.tp
            yield gemm("shared_gate_up_proj", dims.hidden_size, 2 * width, dtype, quantization, stage)
            yield gemm("shared_down_proj", width, dims.hidden_size, dtype, quantization, stage)
    if split.pp_stage == split.pp - 1:
        # Engines pad the vocabulary before they split it over ranks.
        padded = -(-dims.vocab_size // _VOCAB_PADDING) * _VOCAB_PADDING
        yield gemm("lm_head", dims.hidden_size, -(-padded // split.tp), dtype, "none", "last pipeline stage")


def gemm(name: str, k: int, n: int, dtype: str, quantization: str, ranks: str = "every rank") -> Workload:
    """One GEMM of (M, k) by (k, n): `fp8_gemm` when quantized, else `bf16_gemm`. Buckets are set later."""
    op, backend = ("fp8_gemm", "auto") if quantization == "fp8" else ("bf16_gemm", "cublaslt")
    return Workload(
        name=name,
        family="gemm",
        op=op,
        backend=backend,
        dtype="float8_e4m3fn" if quantization == "fp8" else dtype,
        params=_params(k=k, n=n),
        buckets=(),
        exact_sizes=backend == "cublaslt",
        ranks=ranks,
    )


def cpu_gemm(workload: Workload) -> Workload:
    """Build the same GEMM for a machine without a GPU."""
    return replace(workload, family="cpu_gemm", op="cpu_gemm", backend="cpu", dtype="float32", exact_sizes=False)


def fused_moe(dims: ModelDims, split: Split, dtype: str) -> Iterator[Workload]:
    """Yield the two tuned GEMMs inside one fused MoE call.

    One call with the same inputs runs both.
    """
    layers = layers_of_stage(dims.num_hidden_layers, split.pp, split.pp_stage)
    if len(dims.dense_of(layers)) == len(layers):
        return
    params = _params(
        num_experts=dims.num_experts,
        local_experts=dims.num_experts // split.ep,
        top_k=dims.num_experts_per_tok,
        hidden=dims.hidden_size,
        intermediate=dims.moe_intermediate_size // split.moe_tp,
        tp=split.moe_tp,
        ep=split.ep,
        tune_max_num_tokens=split.max_num_batched_tokens,
    )
    for name, op in (("moe_gemm1", MOE_GEMM1), ("moe_gemm2", MOE_GEMM2)):
        yield Workload(
            name=name,
            family="fused_moe",
            op=op,
            backend="cutlass",
            dtype=dtype,
            params=params,
            buckets=(),
            ranks=f"expert shard {split.ep_shard} of {split.ep}",
        )


def attention(dims: ModelDims, split: Split, dtype: str) -> Iterator[Workload]:
    """Yield paged prefill and decode for each window of the stage.

    Latent attention has its own kernels.
    """
    heads = dims.num_attention_heads // split.tp
    if dims.is_mla:
        params = _params(heads=heads, head_dim_ckv=dims.kv_lora_rank, head_dim_kpe=dims.qk_rope_head_dim, page_size=16)
        for op in ("mla_prefill", "mla_decode"):
            yield Workload(op, "attention", op, "fa2", dtype, params, (), tunable=False)
        return
    kv_heads = max(1, dims.num_key_value_heads // split.tp)
    for window in dims.windows_of(layers_of_stage(dims.num_hidden_layers, split.pp, split.pp_stage)):
        shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": dims.head_dim, "page_size": 16}
        suffix = ""
        if window is not None:
            shape["window"] = window
            suffix = "_window"
        for op in ("paged_prefill", "paged_decode"):
            yield Workload(f"{op}{suffix}", "attention", op, "fa2", dtype, _params(**shape), (), tunable=False)


def pointwise(dims: ModelDims, split: Split, dtype: str) -> Iterator[Workload]:
    """RMSNorm, rotary embedding and, on the last stage, sampling."""
    norm = _params(hidden=dims.hidden_size, eps=dims.rms_norm_eps)
    yield Workload("input_norm", "norm", "rmsnorm", "cuda", dtype, norm, (), tunable=False)
    yield Workload("post_norm", "norm", "fused_add_rmsnorm", "cuda", dtype, norm, (), tunable=False)
    kv_heads, head_dim = max(1, dims.num_key_value_heads // split.tp), dims.head_dim
    if dims.is_mla:
        kv_heads, head_dim = 1, dims.qk_rope_head_dim
    heads = dims.num_attention_heads // split.tp
    rope = _params(heads=heads, kv_heads=kv_heads, head_dim=head_dim, theta=dims.rope_theta)
    yield Workload("rotary", "rope", "rope", "cuda", dtype, rope, (), tunable=False)
    if split.pp_stage == split.pp - 1:
        params = _params(vocab=dims.vocab_size)
        yield Workload(
            "sampling",
            "sampling",
            "sampling",
            "cuda",
            "float32",
            params,
            (),
            tunable=False,
            ranks="last pipeline stage",
        )


def _attention_gemms(dims: ModelDims, tp: int) -> Iterator[tuple[str, int, int]]:
    heads, hidden = dims.num_attention_heads // tp, dims.hidden_size
    if not dims.is_mla:
        kv_heads = max(1, dims.num_key_value_heads // tp)
        yield "qkv_proj", hidden, (heads + 2 * kv_heads) * dims.head_dim
        yield "o_proj", heads * dims.head_dim, hidden
        return
    query, latent = heads * (dims.qk_nope_head_dim + dims.qk_rope_head_dim), dims.kv_lora_rank + dims.qk_rope_head_dim
    if dims.q_lora_rank:
        yield "qkv_a_proj", hidden, dims.q_lora_rank + latent
        yield "q_b_proj", dims.q_lora_rank, query
    else:
        yield "q_proj", hidden, query
        yield "kv_a_proj", hidden, latent
    yield "kv_b_proj", dims.kv_lora_rank, heads * (dims.qk_nope_head_dim + dims.v_head_dim)
    yield "o_proj", heads * dims.v_head_dim, hidden


_PER_SEQUENCE = frozenset({"lm_head", "paged_decode", "paged_decode_window", "mla_decode", "sampling"})


def _limited(workload: Workload, split: Split, wanted: Sequence[int] | None, skip_ops: Collection[str]) -> Workload:
    """Set buckets and modules, and make the workload untunable if its op is skipped."""
    per_sequence = workload.name in _PER_SEQUENCE
    limit = split.max_num_seqs if per_sequence else split.max_num_batched_tokens
    if wanted is None:
        buckets = op_buckets(workload.op, limit)
    else:
        chosen = select_buckets(workload.op, split.max_num_batched_tokens, wanted)
        buckets = tuple(size for size in chosen if size <= op_buckets(workload.op, limit)[-1])
    tunable = workload.tunable and workload.op not in skip_ops
    limited = replace(workload, buckets=buckets, tunable=tunable)
    return replace(limited, modules=modules_for(limited))


def _grid(beyond: int = 1 << 24) -> Iterator[int]:
    """The common bucket grid, ascending, up to the first value at or past `beyond`."""
    size = 1
    while True:
        yield size
        if size >= beyond:
            return
        if size < _POWERS_END:
            size *= 2
        elif size < _FINE_END:
            size += _FINE_STEP
        elif size < _COARSE_END:
            size += _COARSE_STEP
        else:
            size *= 2


def _params(**values: Scalar) -> tuple[tuple[str, Scalar], ...]:
    return tuple(sorted(values.items()))
