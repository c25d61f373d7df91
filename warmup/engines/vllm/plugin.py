"""The entry point of `vllm.general_plugins`: installs hooks and nothing else.

vLLM calls it without a configuration, in the front end, the engine's core, every worker and the process that inspects
a model. It reads no file, and imports neither torch nor Ray nor pydantic.
"""

from __future__ import annotations

import logging

from ray_warmup.configs import env
from ray_warmup.warmup.engines.vllm import hooks

logger = logging.getLogger("ray_warmup")


def register() -> None:
    """Install the hooks, unless `RAY_WARMUP=off`."""
    mode = env.read("RAY_WARMUP") or env.ENGINE_MODES[0]
    if mode not in env.ENGINE_MODES:
        logger.warning("RAY_WARMUP: %r: must be one of %s; auto is used", mode, ", ".join(env.ENGINE_MODES))
    if mode != "off":
        hooks.install()
