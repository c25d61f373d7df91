"""Directories in which this SGLang process looks for each cache kind, by its own rules and this process' variables.

`import sglang` points Triton, Inductor, the driver and FlashInfer below `SGLANG_CACHE_DIR` where their own variables
are unset. SGLang's own compiled modules lie elsewhere by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.warmup.artifact.manifest import Kind


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute cache directories of one process.

    A kind's entries are directly below its directory.
    """

    root: Path
    """`SGLANG_CACHE_DIR`: the tables of its autotuning are below it."""
    sglang_jit: Path
    triton_cache: Path
    deep_gemm: Path
    trtllm_deep_gemm: Path
    inductor_home: Path
    flashinfer_base: Path
    """Parent of FlashInfer's `.cache/flashinfer`."""

    def of_kind(self) -> dict[Kind, Path]:
        """Kind -> directory, for the kinds that are plain files."""
        return {
            "sglang_jit": self.sglang_jit,
            "deep_gemm": self.deep_gemm,
            "trtllm_deep_gemm": self.trtllm_deep_gemm,
            "inductor_home": self.inductor_home,
        }


def places() -> Places:
    """Resolve the directories of this process."""
    home = Path(env.read("HOME") or "~").expanduser()
    root = Path(env.read("SGLANG_CACHE_DIR") or home / ".cache" / "sglang").expanduser()
    jit = Path(env.read("SGLANG_JIT_CACHE_DIR") or home / ".cache" / "sglang" / "jit")
    # SGLang sets DeepGEMM's own variable from its own one, whatever it was.
    deep_gemm = Path(env.read("SGLANG_DG_CACHE_DIR") or root / "deep_gemm")
    trtllm = Path(env.read("TRTLLM_DG_CACHE_DIR") or home / ".tensorrt_llm")
    return Places(
        root=root,
        sglang_jit=jit.expanduser(),
        triton_cache=Path(env.read("TRITON_CACHE_DIR") or root / "triton"),
        deep_gemm=deep_gemm / "cache",
        trtllm_deep_gemm=trtllm / "cache",
        inductor_home=Path(env.read("TORCHINDUCTOR_CACHE_DIR") or root / "inductor"),
        flashinfer_base=Path(env.read("FLASHINFER_WORKSPACE_BASE") or root),
    )
