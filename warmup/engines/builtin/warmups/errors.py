"""What can end an engine warmup early.

WarmupError
└── EngineWarmupError            an engine warmup could not be run to its end
    ├── EngineWarmupTimeoutError     it missed its deadline
    └── UnexpectedCompilationError   something was compiled after ready (monitor in `raise` mode)
"""

from __future__ import annotations

from ray_warmup.warmup.errors import WarmupError


class EngineWarmupError(WarmupError):
    """An engine warmup could not be run to its end."""


class EngineWarmupTimeoutError(EngineWarmupError):
    """An engine warmup missed its deadline."""


class UnexpectedCompilationError(EngineWarmupError):
    """Something was compiled after the process had reported ready."""
