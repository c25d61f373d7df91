"""A limit in seconds for work that has none of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(limit_s: float, work: Callable[[], T]) -> T:
    """Run work in a thread of its own, and wait for it at most so long.

    The thread of late work is left to end by itself, and its result is thrown away. Raises TimeoutError, and whatever
    the work raises.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # handed to whoever waits
            outcome.set_exception(error)

    threading.Thread(target=run, name="limited work", daemon=True).start()
    return outcome.result(limit_s)
