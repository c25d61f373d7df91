"""A KV connector for built-in runners, which have none of their own."""

from __future__ import annotations

from typing import Any


class RecordingConnector:
    """A KV connector that keeps the steps that it hears of while it is enabled."""

    def __init__(self, heard: list[Any] | None = None) -> None:
        self.disabled, self.heard = False, [] if heard is None else heard

    def set_disabled(self, disabled: bool) -> None:
        self.disabled = disabled

    def connect(self, runner: Any) -> Any:
        """Give it to a runner, as an engine's runner has one."""
        from ray_warmup.warmup.engines.builtin.runner.protocol import Capability

        execute = runner.execute_model

        def execute_and_tell(step: Any, *rest: Any) -> Any:
            result = execute(step, *rest)
            if not self.disabled:
                self.heard.append(step)
            return result

        runner.kv_connector, runner.execute_model = self, execute_and_tell
        runner.capabilities |= {Capability.KV_CONNECTOR}
        return runner
