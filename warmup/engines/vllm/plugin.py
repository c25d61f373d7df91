"""The entry point of `vllm.general_plugins`: installs hooks and nothing else.

vLLM calls it without a configuration, in the front end, the engine's core, every worker and the process that inspects
a model. It reads no file, and imports neither torch nor Ray nor pydantic.
"""

from __future__ import annotations

from ray_warmup.warmup.engines.plugin.error_boundary import install_unless_off
from ray_warmup.warmup.engines.vllm import hooks


def register() -> None:
    """Install the hooks, unless `RAY_WARMUP=off`."""
    install_unless_off(hooks.install)
