"""SGLang as a run sees it: names, variables and directories. Imports no SGLang."""

from __future__ import annotations

from pathlib import Path

from ray_warmup.warmup.caches import left_out
from ray_warmup.warmup.engines.adapter.adapter import EngineAdapter
from ray_warmup.warmup.engines.adapter.flashinfer_workspace import BELOW
from ray_warmup.warmup.engines.sglang.places import places
from ray_warmup.warmup.engines.sglang.versions import SGLANG


def home(base: Path) -> dict[str, str]:
    """Every cache variable that SGLang and its libraries read, below one directory."""
    return {
        "SGLANG_CACHE_DIR": str(base / "sglang"),
        "SGLANG_JIT_CACHE_DIR": str(base / "sglang_jit"),
        "SGLANG_DG_CACHE_DIR": str(base / "deep_gemm"),
        "SGLANG_CUTE_AOT_CACHE_DIR": str(base / "cute_aot"),
        "TRITON_CACHE_DIR": str(base / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(base / "inductor"),
        "TRTLLM_DG_CACHE_DIR": str(base / "trtllm_deep_gemm"),
        "FLASHINFER_WORKSPACE_BASE": str(base / "flashinfer"),
        "XDG_CACHE_HOME": str(base / "xdg"),
        **left_out.moved_below(base),
    }


def looks_in() -> dict[str, Path]:
    """Directories of this environment by kind."""
    looked = places()
    found: dict[str, Path] = {
        "autotune_configs": looked.root / "flashinfer" / "autotune",
        "triton_cache": looked.triton_cache,
    }
    for kind, directory in looked.of_kind().items():
        found[kind] = directory
    found["flashinfer_module"] = looked.flashinfer_base / BELOW
    return found


SGLANG_ADAPTER = EngineAdapter(
    name="sglang",
    contract=SGLANG,
    distributions=("sglang",),
    plugin_group="sglang.srt.plugins",
    plugins_variable="SGLANG_PLUGINS",
    is_empty_list_none=False,
    start_module="ray_warmup.warmup.engines.sglang.start",
    resolve_module="ray_warmup.warmup.engines.sglang.resolve",
    home=home,
    looks_in=looks_in,
    moved_by={
        "autotune_configs": "SGLANG_CACHE_DIR",
        "sglang_jit": "SGLANG_JIT_CACHE_DIR",
        "triton_cache": "TRITON_CACHE_DIR, SGLANG_CACHE_DIR",
        "deep_gemm": "SGLANG_DG_CACHE_DIR, SGLANG_CACHE_DIR",
        "trtllm_deep_gemm": "TRTLLM_DG_CACHE_DIR",
        "inductor_home": "TORCHINDUCTOR_CACHE_DIR, SGLANG_CACHE_DIR",
        "flashinfer_module": "FLASHINFER_WORKSPACE_BASE, SGLANG_CACHE_DIR",
    },
    # What was seen of SGLang itself (tests/gpu/results/sglang_table.md), not of vLLM.
    seen={
        "autotune_configs": "carried on H200",
        "flashinfer_module": "carried on H200",
        "deep_gemm": "carried, not seen on a GPU",
        "trtllm_deep_gemm": "carried, not seen on a GPU",
    },
    memory_share_argument="mem_fraction_static",
)
