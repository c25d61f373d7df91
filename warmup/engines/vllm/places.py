"""Directories in which this vLLM process looks for each cache kind, by its own rules and this process' variables.

Ahead-of-time files and Inductor's cache lie below a digest that vLLM computes at the first forward: `hooks.py` hears
of that path. All others are known as soon as the process runs.
"""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.warmup.artifact.manifest import Kind


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute cache directories of one process.

    A kind's entries are directly below its directory.
    """

    modelinfos: Path
    triton_cache: Path
    deep_gemm: Path
    trtllm_deep_gemm: Path
    inductor_home: Path
    """Inductor's own directory, in use until vLLM points it below the key of the ahead-of-time file."""

    def of_kind(self) -> dict[Kind, Path]:
        """Kind -> directory, for the kinds that are plain files."""
        return {
            "modelinfos": self.modelinfos,
            "deep_gemm": self.deep_gemm,
            "trtllm_deep_gemm": self.trtllm_deep_gemm,
            "inductor_home": self.inductor_home,
        }


def places(cache_root: Path) -> Places:
    """Resolve the directories of this process.

    `cache_root` is vLLM's own (`vllm.envs.VLLM_CACHE_ROOT`).
    """
    home = Path(env.read("HOME") or "~").expanduser()
    triton_home = Path(env.read("TRITON_HOME") or home)
    deep_gemm = (env.read("DG_JIT_CACHE_DIR") or str(cache_root / "deep_gemm")).split(":")[0]
    trtllm = Path(env.read("TRTLLM_DG_CACHE_DIR") or home / ".tensorrt_llm")
    return Places(
        modelinfos=cache_root / "modelinfos",
        triton_cache=Path(env.read("TRITON_CACHE_DIR") or triton_home / ".triton" / "cache"),
        deep_gemm=Path(deep_gemm) / "cache",
        trtllm_deep_gemm=trtllm / "cache",
        inductor_home=_inductor_home(),
    )


def default_cache_root() -> Path:
    """Return vLLM's cache root by its own rule."""
    given = env.read("VLLM_CACHE_ROOT")
    if given is not None:
        return Path(given).expanduser()
    base = env.read("XDG_CACHE_HOME")
    home = Path(env.read("HOME") or "~").expanduser()
    parent = Path(base) if base else home / ".cache"
    return parent / "vllm"


def _inductor_home() -> Path:
    """Inductor's directory by torch's rule: a variable, else one of this user below the temporary directory."""
    given = env.read("TORCHINDUCTOR_CACHE_DIR")
    if given is not None:
        return Path(given)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user number without a name
        user = str(os.getuid())
    return Path(tempfile.gettempdir()) / f"torchinductor_{re.sub(r'[^0-9A-Za-z_.-]', '_', user)}"
