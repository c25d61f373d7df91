"""Work without a limit of its own: its result, its error, or a TimeoutError while it goes on."""

from __future__ import annotations

import threading
import time

import pytest

from ray_warmup.warmup.time_limit import within


def test_work_that_is_done_in_time_gives_its_result_or_its_error() -> None:
    """As if it were called in this thread."""
    assert within(5.0, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 / 0)


def test_late_work_is_left_to_end_by_itself() -> None:
    """Whoever waits goes on at the limit."""
    released, ended = threading.Event(), threading.Event()

    def work() -> None:
        released.wait(10.0)
        ended.set()

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.05, work)
    assert time.monotonic() - began < 5.0
    assert not ended.is_set()
    released.set()
    assert ended.wait(5.0)
