"""Steps that must not end what follows them: each has a limit, and whatever it raises is a sentence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

logger = logging.getLogger(__name__)


async def attempt(step: str, work: Awaitable[object], limit_s: float) -> str | None:
    """Run one clean-up step and return None, or a message if it failed.

    `step` names the step.
    """
    try:
        await asyncio.wait_for(work, limit_s)
    except TimeoutError:
        return f"{step} did not end within {limit_s:g} s"
    except Exception as error:  # the next step, and the report, are owed all the same
        logger.exception("%s failed", step)
        return f"{step} failed: {type(error).__name__}: {error}"
    return None
