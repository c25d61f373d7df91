"""Starts of a recorded engine, as many as its tuning needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from ray_warmup.warmup.engines.tuning.session import TuningSession
from ray_warmup.warmup.errors import EngineError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def until_tuned(session: TuningSession, start: Callable[[], T]) -> T:
    """Start an engine, and once more whenever a tactic took one of its ranks, until a start reaches its end.

    The session bounds the number of starts: a rank that is lost too often ends the tuning.

    Args:
        session: conducts the ranks of every start.
        start: starts the engine, waits for its end, and raises EngineError where that was not its own.

    Raises:
        EngineError: the tuning failed, or the engine for a reason of its own.
    """
    while True:
        try:
            done = start()
        except EngineError as error:
            is_wanted = session.engine_ended()
            if session.error:
                raise EngineError(f"what the engine asks for could not be tuned: {session.error}") from error
            if not is_wanted:
                raise
            logger.info("the engine starts anew: %s", str(error).splitlines()[0])
            continue
        if session.error:
            raise EngineError(f"what the engine asks for could not be tuned: {session.error}")
        if session.is_unfinished:
            raise EngineError(
                f"the engine went on although what it asks for is not tuned yet ({session.stage}); its log says why"
            )
        return done
