"""Errors of a model runner.

WarmupError
└── RunnerError              a runner was driven wrongly, or cannot do what was asked
    ├── MissingCapabilityError   it says itself that it lacks an optional capability
    ├── SwallowedArgumentError   it would take an argument and silently ignore it
    └── ScheduleError            a scheduler output contradicts the runner's limits or requests
"""

from __future__ import annotations

from ray_warmup.warmup.errors import WarmupError


class RunnerError(WarmupError):
    """A model runner was driven wrongly, or cannot do what was asked."""


class MissingCapabilityError(RunnerError):
    """The runner declares that it lacks an optional capability."""


class SwallowedArgumentError(RunnerError):
    """The runner would accept an argument without acting on it."""


class ScheduleError(RunnerError):
    """A scheduler output contradicts the runner's limits or the requests it knows."""
