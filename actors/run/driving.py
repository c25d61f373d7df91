"""The loop that steps a run's machine with what the executor brings back, until the run is over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from ray_warmup.actors.run.executor import Executor, Machine

TICK_S = 0.1
DEAF_S = 3.0
"""A loop that has not turned for so long did not hear the ranks either: it was stopped, or starved."""


async def drive(
    machine: Machine, executor: Executor, stop: Callable[[], str | None], announce: Callable[[], None]
) -> None:
    """Step the machine until it is over.

    Args:
        machine: of the run.
        executor: carries its commands out.
        stop: gives the reason to end the run, once there is one.
        announce: is called after each step.
    """
    executor.perform(machine.begin(time.monotonic()))
    ticked = time.monotonic()
    while not machine.is_over:
        with contextlib.suppress(TimeoutError):
            step = await asyncio.wait_for(executor.inbox.get(), TICK_S)
            executor.perform(step(machine, time.monotonic()))
        now = time.monotonic()
        if now - ticked >= DEAF_S:
            # Before the tick, whose deadlines would otherwise hold this process' own pause against the ranks.
            machine.was_deaf(now)
        if now - ticked >= TICK_S:  # also while answers keep coming in: deadlines must be looked at
            ticked = now
            reason = stop()
            executor.perform(machine.tick(now, executor.statuses) if reason is None else machine.fail(reason, now))
        announce()
