"""Lists what the adapter uses of SGLang and the releases in which it was read. Others are refused by name.

Every release here has the entry point group `sglang.srt.plugins`. `tests/engines/test_sglang_contract.py` reads them.
"""

from __future__ import annotations

from ray_warmup.warmup.engines.adapter.contract import EngineContract

ENVIRON = "sglang/srt/environ.py"

SGLANG = EngineContract(
    name="SGLang",
    package="sglang",
    versions={
        "0.5.19": "read in its wheel",
        "0.5.20": "read in its wheel",
        "0.5.21": "read in its wheel",
        "0.5.22": "read in its wheel",
        "0.5.23": "read in its wheel, tried on a processor with stand-ins for its kernel package, recorded on an H200",
    },
    functions={
        "sglang/srt/plugins/__init__.py": {"load_plugins": ()},
        ENVIRON: {"redirect_third_party_caches": (), "third_party_cache_defaults": ()},
        "sglang/srt/entrypoints/engine.py": {"Engine.__init__": ("self",), "Engine.shutdown": ("self",)},
        "sglang/srt/server_args.py": {
            "ServerArgs.add_cli_args": ("parser",),
            "ServerArgs.from_cli_args": ("cls", "args"),
            "ServerArgs.resolve_once": ("self",),
            "ServerArgs.resolved_dict": ("self",),
        },
        "sglang/srt/model_executor/runner/base_runner.py": {
            "BaseRunner._flashinfer_autotune": ("self",),
            "BaseRunner.warmup": ("self",),
        },
        "sglang/srt/model_executor/runner/flashinfer_autotune.py": {
            "should_run_flashinfer_autotune": ("model_runner",),
            "flashinfer_autotune_cache_path": ("model_runner",),
            "flashinfer_autotune_context": ("model_runner",),
        },
        "sglang/srt/model_executor/model_runner.py": {
            "ModelRunner.initialize": ("self",),
            "ModelRunner.load_model": ("self",),
            "ModelRunner.init_cuda_graphs": ("self", "capture_decode_cuda_graph"),
        },
    },
    words={
        "sglang/srt/plugins/__init__.py": ('GENERAL_PLUGINS_GROUP = "sglang.srt.plugins"',),
        "sglang/srt/managers/scheduler.py": (
            "    load_plugins()\n",
            "def run_scheduler_process(",
            '"max_req_input_len"',
        ),
        "sglang/srt/managers/tokenizer_manager.py": ("self.context_len = ",),
        "sglang/srt/entrypoints/engine.py": (
            '"server_args" in kwargs',
            "self._scheduler_init_result = ",
            "sampling_params: ",
            "input_ids: ",
        ),
        "sglang/srt/configs/model_config.py": (
            "def from_server_args(",
            "self.hf_config",
            "self.is_multimodal = ",
            "self.is_generation = ",
        ),
        "sglang/srt/model_executor/runner/base_runner.py": ("    run_flashinfer_autotune_forward,\n",),
        "sglang/srt/model_executor/runner/flashinfer_autotune.py": (
            "    with flashinfer_autotune_context(",
            '/ "autotune"',
            "rank_tp{",
        ),
        "sglang/__init__.py": ("redirect_third_party_caches",),
        ENVIRON: (
            "SGLANG_CACHE_DIR",
            "SGLANG_JIT_CACHE_DIR",
            "SGLANG_FLASHINFER_AUTOTUNE_CACHE",
            "SGLANG_DG_CACHE_DIR",
            '"TRITON_CACHE_DIR"',
            '"TORCHINDUCTOR_CACHE_DIR"',
            '"FLASHINFER_WORKSPACE_BASE"',
            '"CUDA_CACHE_PATH"',
            '"TILELANG_CACHE_DIR"',
            "SGLANG_CUTE_AOT_CACHE_DIR",
            "SGLANG_CRASH_ON_JIT_COMPILE",
        ),
        "sglang/srt/compilation/backend.py": ('"torch_compile_cache"',),
    },
    absent={
        "0.5.19": {ENVIRON: ('"TILELANG_CACHE_DIR"', "SGLANG_CUTE_AOT_CACHE_DIR", "SGLANG_CRASH_ON_JIT_COMPILE")},
        "0.5.20": {ENVIRON: ('"TILELANG_CACHE_DIR"',)},
    },
)
