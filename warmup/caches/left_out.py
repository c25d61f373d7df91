"""Kinds of cache that engines fill at their start and that are not shipped, each with the reason and its directory.

A start that is recorded or proven has these directories for itself, too: what an earlier one left there must not look
like a start that compiles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One kind."""

    name: str
    reason: str
    variable: str = ""
    """Variable that moves its directory; empty where the directory of a kind that is carried holds it."""
    default: str = ""
    """That directory without the variable, from `~`, `$TMPDIR` and `$USER`."""
    counted: str = ""
    """Name under which its compilations are counted; empty where nobody hears them."""

    def directory(self, environ: Mapping[str, str], user: str, temporary: str) -> Path | None:
        """Return where a process with these variables keeps it, or None where it has no directory of its own.

        Args:
            environ: of the process.
            user: name of its user.
            temporary: directory of its temporary files.
        """
        if not self.variable:
            return None
        if given := environ.get(self.variable):
            return Path(given)
        home = environ.get("HOME") or str(Path.home())
        text = self.default.replace("$TMPDIR", temporary).replace("$USER", user)
        return Path(text.replace("~", home, 1) if text.startswith("~") else text)


LEFT_OUT: tuple[LeftOut, ...] = (
    LeftOut(
        "flashinfer cached_ops",
        "ninja rebuilds a moved directory: its state holds absolute paths and header times",
    ),
    LeftOut(
        "compile directories without ahead-of-time files",
        "their key holds the absolute paths of the traced sources",
    ),
    LeftOut(
        "CuTe-DSL",
        "`cute.compile` never reads the disk cache; other entries may hold source locations",
        "CUTE_DSL_CACHE_DIR",
        "$TMPDIR/$USER/cutlass_python_cache",
        counted="cute_dsl",
    ),
    LeftOut(
        "humming",
        "the key holds absolute include paths and their modification times",
        "HUMMING_CACHE_DIR",
        "~/.humming/cache",
    ),
    LeftOut("tvm-ffi", "ninja build directories with absolute paths", "TVM_FFI_CACHE_DIR", "~/.cache/tvm-ffi"),
    LeftOut("TileLang", "no model that was recorded fills it", "TILELANG_CACHE_DIR", "~/.tilelang/cache"),
    LeftOut(
        "FlashAttention 4",
        "its disk cache is off by default",
        "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR",
        "$TMPDIR/$USER/flash_attention_cute_dsl_cache",
    ),
    LeftOut("quack", "no model that was recorded fills it", "QUACK_CACHE_DIR", "$TMPDIR/$USER/quack_cache"),
    LeftOut("MInfer attention", "for Blackwell alone", "MINFER_FMHA_CACHE_DIR", "~/.cache/minfer/fmha_sm100"),
    LeftOut(
        "CUDA driver",
        "wheels carry machine code for Hopper; the built-in engine's is carried as cuda_compute_cache",
        "CUDA_CACHE_PATH",
        "~/.nv/ComputeCache",
    ),
    LeftOut("startup plan", "applies only where as many bytes of memory are free as at the recording"),
)


def why_left_out(counted: str) -> str:
    """Return why a counted kind is not shipped, or an empty text for one that is."""
    return next((row.reason for row in LEFT_OUT if row.counted == counted), "")


def moved_below(base: Path) -> dict[str, str]:
    """Return the variables that move every kind with a directory of its own below another one."""
    return {row.variable: str(base / row.variable.lower()) for row in LEFT_OUT if row.variable}
