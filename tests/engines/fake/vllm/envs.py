"""The variables that the fake engine reads."""

from __future__ import annotations

import os


def __getattr__(name: str) -> str:
    if name == "VLLM_CACHE_ROOT":
        return os.environ.get(name) or os.path.expanduser("~/.cache/vllm")
    raise AttributeError(name)


def compile_factors() -> dict[str, object]:
    """What its compile key is made of besides the configuration."""
    names = ("VLLM_PLUGINS", "VLLM_USE_FAKE_KERNELS", "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES")
    return {name: os.environ.get(name) for name in names}
