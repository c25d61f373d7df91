"""The KV connector of the built-in runner: hands finished steps to a listener, unless disabled."""

from __future__ import annotations

from collections.abc import Callable

from ray_warmup.warmup.engines.builtin.runner.schedule import SchedulerOutput


class StepConnector:
    """Connector that reports every executed step to `listener`.

    An engine would move KV blocks here.
    """

    def __init__(self, listener: Callable[[SchedulerOutput], None] | None = None) -> None:
        self.disabled = False
        self._listener = listener

    def set_disabled(self, disabled: bool) -> None:
        """Ignore steps while disabled."""
        self.disabled = disabled

    def step_done(self, output: SchedulerOutput) -> None:
        """Called by the runner after each step."""
        if not self.disabled and self._listener is not None:
            self._listener(output)
