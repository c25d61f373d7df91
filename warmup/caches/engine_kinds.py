"""Kinds of cache that engines fill at their start and that are carried as plain files.

The docstring of this package has the table of all kinds, `left_out.py` those that are not shipped.

A recording runs with `TORCH_COMPILE_ON_ONE_RANK=1`: without it torch bakes the CUDA device index into the
ahead-of-time file, which then loads on another index and dies in its first forward. Triton's entries are placed before
that file is loaded, because most of its kernels are looked up there. All of this was measured with vLLM 0.33.0 on an
H100 (tests/gpu/results/vllm_study.md) and, by the product itself, on an H200 (tests/gpu/results/engine_table.md).

*Code* is what an engine unpickles or maps as a library: whoever can write it runs code in the engine.
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
    "carried on H200",
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
