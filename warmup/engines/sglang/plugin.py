"""The entry point of `sglang.srt.plugins`: installs hooks and nothing else.

SGLang calls it without a configuration, in the front end, every scheduler and the detokenizer, before anything of the
engine is made. It reads no file, and imports neither torch nor Ray nor pydantic.
"""

from __future__ import annotations

from ray_warmup.warmup.engines.plugin.error_boundary import install_unless_off
from ray_warmup.warmup.engines.sglang import hooks


def register() -> None:
    """Install the hooks, unless `RAY_WARMUP=off`."""
    install_unless_off(hooks.install)
