"""The table of cache kinds that engines fill at their start: what is carried, how, and what is left out.

| kind | entry | moved by | what must be equal |
|---|---|---|---|
| torch_compile | a rank's ahead-of-time file | placing it under the key of this start | engine, torch, Triton, |
| | | | Python patch level, GPU name, configuration |
| inductor | one file of the code and graph caches | placing it beside that file | engine, torch, Triton |
| inductor_home | the same, of graphs compiled before there is a key | placing it in Inductor's directory | the same |
| triton_cache | one directory of Triton's cache | rewriting paths in group files (`triton_cache.py`) | Triton, ptxas, |
| | | | architecture |
| flashinfer_module | one shared library | FlashInfer's lookup of ahead-of-time modules | FlashInfer, CUDA, |
| | | (`flashinfer_modules.py`) | architecture, C library |
| deep_gemm | one entry directory | writing its mark, `.committed`: its key | `nvcc --version`, CUTLASS, headers |
| | | holds no path | |
| trtllm_deep_gemm | one entry directory | nothing: its name holds no version | FlashInfer, nvcc: by the class key |
| sglang_jit | one directory of a module's build | nothing: its name is the digest of everything it was built from | |
| modelinfos | one JSON file | nothing: the engine compares a digest of the model's source | engine |

A recording runs with `TORCH_COMPILE_ON_ONE_RANK=1`: without it torch bakes the CUDA device index into the
ahead-of-time file, which then loads on another index and dies in its first forward. Triton's entries are placed before
that file is loaded, because most of its kernels are looked up there. All of this was measured with vLLM 0.33.0 on an
H100 (tests/gpu/results/vllm_study.md) and, by the product itself, on an H200 (tests/gpu/results/engine_table.md).

`LEFT_OUT` has the kinds that are not shipped. *Code* is what an engine unpickles or maps as a library: whoever can
write it runs code in the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ray_warmup.warmup.artifact.manifest import Kind
from ray_warmup.warmup.caches.tree import TreeLayout

Placed = Literal["when configured", "at the first forward", "on request"]
"""When an engine's process gets the entries: once configuration, rank and device are known, once vLLM has computed the
key of its compiled model, or once a model's class is looked up."""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One kind whose entries are plain files of a directory."""

    layout: TreeLayout
    results: tuple[str, ...]
    """Patterns of the files that a compiler leaves: a new one after placing means that something was compiled."""
    is_code: bool
    placed: Placed
    seen: str
    """Test in which the kind was moved from one home to another."""

    @property
    def name(self) -> Kind:
        """The kind's name in a manifest."""
        return self.layout.kind


TORCH_COMPILE = EngineKind(
    TreeLayout("torch_compile", entry_depth=0, ignored=("*.tmp",)),
    ("model",),
    True,
    "at the first forward",
    "carried on H200",
)
INDUCTOR = EngineKind(
    TreeLayout("inductor", entry_depth=0, ignored=("*.lock", "*.tmp", "locks", "tmp.*")),
    ("*.so", "*.cubin"),
    True,
    "at the first forward",
    "carried on H200",
)
INDUCTOR_HOME = EngineKind(
    TreeLayout("inductor_home", entry_depth=0, ignored=("*.lock", "*.tmp", "locks", "tmp.*")),
    ("*.so", "*.cubin"),
    True,
    "when configured",
    "carried on H200",
)
MODELINFOS = EngineKind(
    TreeLayout("modelinfos", entry_depth=0, ignored=("*.tmp",)), ("*.json",), False, "on request", "carried on H200"
)
DEEP_GEMM = EngineKind(
    TreeLayout("deep_gemm", entry_depth=1, ignored=("tmp", "*.tmp"), mark=".committed"),
    ("*.cubin",),
    True,
    "when configured",
    "carried on H200",
)
TRTLLM_DEEP_GEMM = EngineKind(
    TreeLayout("trtllm_deep_gemm", entry_depth=1, ignored=("tmp", "*.tmp")),
    ("*.cubin",),
    True,
    "when configured",
    "carried on H200",
)
SGLANG_JIT = EngineKind(
    # Target, module, digest of the build, digest of what it depends on.
    TreeLayout("sglang_jit", entry_depth=4, ignored=("*.tmp", "*.lock")),
    ("*.so",),
    True,
    "when configured",
    "carried, not seen on a GPU",
)

TRITON = EngineKind(
    TreeLayout("triton_cache", entry_depth=1, ignored=("tmp.pid_*", "lock")),
    ("*.cubin",),
    True,
    "when configured",
    "carried on H200",
)
"""Moved by `triton_cache.py`, and watched as a directory: torch's compile workers compile what nobody hears."""

TREE_KINDS: tuple[EngineKind, ...] = (
    TORCH_COMPILE,
    INDUCTOR,
    INDUCTOR_HOME,
    MODELINFOS,
    DEEP_GEMM,
    TRTLLM_DEEP_GEMM,
    SGLANG_JIT,
)

WATCHED: tuple[EngineKind, ...] = (*TREE_KINDS, TRITON)
"""Kinds whose directories can be compared before and after."""

REWRITTEN_KINDS: tuple[Kind, ...] = ("triton_cache", "flashinfer_module")
"""Kinds with a module of their own, because their files name their home."""


def placed_kinds(moment: Placed) -> tuple[Kind, ...]:
    """Return the tree kinds that a process places at this moment."""
    return tuple(kind.name for kind in TREE_KINDS if kind.placed == moment)


LEFT_OUT: dict[str, str] = {
    "flashinfer cached_ops": "ninja rebuilds a moved directory: its state holds absolute paths and header times",
    "compile directories without ahead-of-time files": "their key holds the absolute paths of the traced sources",
    "CuTe-DSL": "`cute.compile` never reads the disk cache; other entries may hold source locations",
    "humming": "the key holds absolute include paths and their modification times",
    "tvm-ffi": "ninja build directories with absolute paths",
    "TileLang": "no model that was recorded fills it",
    "FlashAttention 4": "its disk cache is off by default",
    "quack": "no model that was recorded fills it",
    "CUDA driver": "wheels carry machine code for Hopper; the built-in engine's is carried as cuda_compute_cache",
    "startup plan": "applies only where as many bytes of memory are free as at the recording",
}
"""Kinds of cache that are not shipped, each with the reason."""
