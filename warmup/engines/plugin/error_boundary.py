"""The border to an engine's process: whatever of this project fails there must not end the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType

from ray_warmup.configs import env

logger = logging.getLogger("ray_warmup")


def install_unless_off(install: Callable[[], None]) -> None:
    """Install hooks, unless `RAY_WARMUP=off`."""
    mode = env.read("RAY_WARMUP") or env.ENGINE_MODES[0]
    if mode not in env.ENGINE_MODES:
        logger.warning(
            "RAY_WARMUP: %r: must be one of %s; auto is used -> correct the variable", mode, ", ".join(env.ENGINE_MODES)
        )
    if mode != "off":
        install()


def guarded(step: str, work: Callable[[], None], *, may_require: bool = True) -> None:
    """Run a step of ours so that it cannot hurt an engine that does not require it."""
    try:
        work()
    except Exception as error:  # the border to somebody else's process: whatever fails here must not end it
        if may_require and env.read("RAY_WARMUP") == "require":
            raise RuntimeError(f"RAY_WARMUP=require: {step}: {error}") from error
        logger.warning(
            "ray-warmup: %s failed, so the engine starts as without it: %s: %s -> run `ray-warmup doctor` on this node",
            step,
            type(error).__name__,
            error,
        )


def when_served(
    wrap: Callable[[ModuleType], None], refusal: Callable[[], str], *, may_require: bool = False
) -> Callable[[ModuleType], None]:
    """Let a module of the engine be wrapped only in a release that is served, and never fail its import under `auto`.

    Args:
        wrap: wraps functions of the module.
        refusal: says why the engine's release is not served, or nothing.
        may_require: the module belongs to processes that serve, which `RAY_WARMUP=require` judges.
    """

    def callback(module: ModuleType) -> None:
        reason = refusal()
        if not reason:
            guarded(f"wrapping {module.__name__}", lambda: wrap(module), may_require=may_require)
        elif may_require and env.read("RAY_WARMUP") == "require":
            raise RuntimeError(f"RAY_WARMUP=require: {reason}")

    return callback
