"""A home for one engine: every kind of start-up cache in a directory of its own, and a census of what lies there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VARIABLES = {
    "HOME": "home",
    "XDG_CACHE_HOME": "xdg",
    "VLLM_CACHE_ROOT": "vllm",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "CUDA_CACHE_PATH": "driver",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "DG_JIT_CACHE_DIR": "deep_gemm",
    "TRTLLM_DG_CACHE_DIR": "trtllm_deep_gemm",
    "TVM_FFI_CACHE_DIR": "tvm_ffi",
    "TILELANG_CACHE_DIR": "tilelang",
    "CUTE_DSL_CACHE_DIR": "cute_dsl",
    "QUACK_CACHE_DIR": "quack",
    "HUMMING_CACHE_DIR": "humming",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "fa4",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "HF_HOME": "hf",
    "SGLANG_CACHE_DIR": "sglang",
    "SGLANG_JIT_CACHE_DIR": "sglang_jit",
    "TMPDIR": "tmp",
}
"""Which variable points at which directory of a home."""

VLLM_PARTS = ("rank_", "inductor_cache", "modelinfos", "flashinfer_autotune_cache", "startup_plan", "deep_gemm")


@dataclass(frozen=True)
class Holding:
    """What one kind left in its directory."""

    kind: str
    files: int
    size: int
    examples: tuple[str, ...]
    """Relative paths of the largest three."""


def environment(home: Path) -> dict[str, str]:
    """The variables of a process that lives in this home; makes the directories."""
    for name in VARIABLES.values():
        (home / name).mkdir(parents=True, exist_ok=True)
    return {variable: str(home / name) for variable, name in VARIABLES.items()}


def files_of(home: Path) -> Iterator[Path]:
    """Every regular file below a home."""
    for folder, _, names in os.walk(home):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


def kind_of(path: Path, home: Path) -> str:
    """The kind that a file belongs to: the directory of its variable, and for vLLM's root the part below it."""
    parts = path.relative_to(home).parts
    if parts[0] != "vllm":
        return parts[0]
    for part in parts[1:]:
        if part.startswith(VLLM_PARTS):
            return f"vllm/{part}"
    return "vllm/" + (parts[1] if len(parts) > 2 else "")


def census(home: Path) -> list[Holding]:
    """What each kind holds."""
    found: dict[str, list[tuple[int, str]]] = {}
    for path in files_of(home):
        found.setdefault(kind_of(path, home), []).append((path.stat().st_size, str(path.relative_to(home))))
    return [
        Holding(kind, len(rows), sum(size for size, _ in rows), tuple(name for _, name in sorted(rows)[::-1][:3]))
        for kind, rows in sorted(found.items())
    ]


def forget_reading(home: Path) -> None:
    """Set every file's access time to the beginning, so that the next reading shows; modification times stay."""
    for path in files_of(home):
        os.utime(path, ns=(1, path.stat().st_mtime_ns))


def was_read(home: Path) -> dict[str, tuple[int, int]]:
    """Of each kind: files that were read since `forget_reading`, and all files that were there then."""
    counts: dict[str, tuple[int, int]] = {}
    for path in files_of(home):
        status = path.stat()
        is_read = status.st_atime_ns > 1_000_000_000
        read, total = counts.get(kind_of(path, home), (0, 0))
        counts[kind_of(path, home)] = (read + is_read, total + 1)
    return counts
