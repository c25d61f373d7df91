"""An SGLang for tests: real processes and directories, the functions that the plugin wraps, no model and no torch.

FAKE_SGLANG_FAULT  init, hang, crash_warm, answer, one_rank, late_compile: where it fails, hangs or compiles late
FAKE_SGLANG_CALLS  directory of the barrier of a forward that asks FlashInfer's real AutoTuner; unset: none is run
"""

from __future__ import annotations

from typing import Any

from sglang.srt.environ import redirect_third_party_caches

__version__ = "0.5.23"

redirect_third_party_caches()


def __getattr__(name: str) -> Any:
    """Import the engine when it is asked for, as the real package does."""
    if name == "Engine":
        from sglang.srt.entrypoints.engine import Engine

        return Engine
    raise AttributeError(name)
