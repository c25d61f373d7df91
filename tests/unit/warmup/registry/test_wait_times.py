"""Seconds that processes wait for the registry."""

from __future__ import annotations

from ray_warmup.warmup.registry.values import Asker
from ray_warmup.warmup.registry.wait_times import FORGOTTEN_S, WaitTimes

FIRST, SECOND = Asker("n", 1), Asker("n", 2)


def test_a_wait_begins_with_the_first_question() -> None:
    """Repeated questions of one process are one wait; keys and processes are apart."""
    waits = WaitTimes()
    for now in (10.0, 15.0, 20.0):
        waits.asked("k", FIRST, now)
    waits.asked("k", SECOND, 18.0)
    assert waits.ended("k", FIRST, 22.0) == 12.0
    assert waits.ended("k", SECOND, 22.0) == 4.0
    assert waits.ended("other", FIRST, 22.0) == 0.0
    assert len(waits) == 0


def test_who_never_comes_back_is_forgotten() -> None:
    """A process that died while it waited takes no memory for ever."""
    waits = WaitTimes()
    waits.asked("k", FIRST, 0.0)
    waits.asked("k", SECOND, FORGOTTEN_S + 1)
    assert len(waits) == 1
