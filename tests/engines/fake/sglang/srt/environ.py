"""SGLang's variables, and where it points the caches of its libraries."""

from __future__ import annotations

import os
from pathlib import Path


class Setting:
    """One variable."""

    def __init__(self, name: str, default: str) -> None:
        self.name, self.default = name, default

    def get(self) -> str:
        """Its value now."""
        return os.environ.get(self.name, self.default)


class Flag(Setting):
    """One truth value."""

    def get(self) -> bool:  # type: ignore[override]
        """Its value now."""
        return super().get() not in ("0", "false")


class envs:
    """Every variable that is read."""

    SGLANG_CACHE_DIR = Setting("SGLANG_CACHE_DIR", str(Path("~/.cache/sglang").expanduser()))
    SGLANG_FLASHINFER_AUTOTUNE_CACHE = Flag("SGLANG_FLASHINFER_AUTOTUNE_CACHE", "1")


def redirect_third_party_caches() -> None:
    """Below SGLang's own directory, unless they are set."""
    base = Path(envs.SGLANG_CACHE_DIR.get())
    for name, below in (("TRITON_CACHE_DIR", "triton"), ("TORCHINDUCTOR_CACHE_DIR", "inductor")):
        os.environ.setdefault(name, str(base / below))
    os.environ.setdefault("FLASHINFER_WORKSPACE_BASE", str(base))
