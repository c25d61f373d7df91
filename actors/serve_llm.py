"""Ray Serve LLM with warm engines: one line in `LLMConfig`.

    LLMConfig(..., callback_config={"callback_class": "ray_warmup.actors.serve_llm.WarmEngine"})

Ray calls `on_before_node_init` in the replica alone, before vLLM is configured. It sets variables in the runtime
environment that Ray gives to vLLM's workers, and in the replica, whose child processes inherit them. The plugin
(`warmup/engines/vllm/plugin.py`) does the rest in each of these processes.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.llm._internal.common.callbacks.base import CallbackBase

from ray_warmup.actors.joining.serve_llm_contract import refusal_of
from ray_warmup.configs import env
from ray_warmup.configs.errors import ConfigError, shown
from ray_warmup.warmup.errors import EngineError


class WarmEngine(CallbackBase):  # type: ignore[misc]  # Ray ships no types
    """Callback of an `LLMConfig`. Its arguments are `callback_kwargs`."""

    def __init__(self, *, mode: str = env.ENGINE_MODES[0], cache_root: str | None = None, **given: Any) -> None:
        """Check the release and the arguments.

        Args:
            mode: what the plugin does (`RAY_WARMUP`): auto, require or off.
            cache_root: cache root of every node, `~` allowed; default: each node's own.
            given: what Ray gives every callback.

        Raises:
            EngineError: this Ray's Serve LLM brings an engine that is not served.
            ConfigError: an argument is wrong.
        """
        why = refusal_of(ray.__version__)
        if why:
            raise EngineError(why)
        if mode not in env.ENGINE_MODES:
            modes = ", ".join(env.ENGINE_MODES)
            raise ConfigError(f"callback_kwargs.mode: {shown(mode)}: must be one of {modes}")
        super().__init__(**given)
        self._variables = {"RAY_WARMUP": mode}
        if cache_root is not None:
            self._variables["RAY_WARMUP_CACHE_ROOT"] = cache_root

    async def on_before_node_init(self) -> None:
        """Set the variables. What the deployment itself sets for its workers wins."""
        runtime_env = dict(self.ctx.runtime_env or {})
        variables = {**self._variables, **(runtime_env.get("env_vars") or {})}
        self.ctx.runtime_env = {**runtime_env, "env_vars": variables}
        env.export({name: variables[name] for name in self._variables})
