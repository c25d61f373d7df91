"""Calls to a registry that dies or is out of reach: repeated until it is back, given up after a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ray_warmup.actors.registry import calls as registry_calls
from ray_warmup.actors.registry.calls import RegistryCalls
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.registry.values import Asker, Lead

ASKER = Asker("node", 1)
LIMIT_S = 0.1
LONG_S = 10.0
"""For Ray to search, where the control service is out of reach."""


class Registry:
    """A handle whose first calls fail."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0
        self.ask = SimpleNamespace(remote=self._ask)

    def _ask(self, key: str, asker: Asker) -> Any:
        self.calls += 1
        return Lead(key) if self.calls > self.failures else ray.exceptions.ActorDiedError()


def calls(monkeypatch: pytest.MonkeyPatch, actor: Registry, notes: list[str], away_s: float = 60.0) -> RegistryCalls:
    """Calls to it, without Ray and without pauses."""

    def get(answer: Any, timeout: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(registry_calls, "registry", lambda cache: actor)
    monkeypatch.setattr(registry_calls, "AGAIN_S", 0.01)
    monkeypatch.setattr(ray, "get", get)
    return RegistryCalls(CacheSection(), notes.append, away_s)


def test_a_registry_that_comes_back_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its absence is said once."""
    actor, notes = Registry(3), list[str]()
    assert calls(monkeypatch, actor, notes).ask("key", ASKER) == Lead("key")
    assert actor.calls == 4
    assert len(notes) == 1
    assert notes[0].startswith("the registry is away, asked again for 60 s: ")


def test_a_registry_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Ray's error, which the caller takes for a reason to go on alone."""
    actor, notes = Registry(1 << 30), list[str]()
    with pytest.raises(ray.exceptions.RayActorError):
        calls(monkeypatch, actor, notes, away_s=0.1).ask("key", ASKER)
    assert 2 <= actor.calls <= 12


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryCalls]:
    """Calls to a registry that Ray searches for a long time."""
    is_over = threading.Event()

    def search(cache: CacheSection) -> Any:
        is_over.wait(LONG_S)
        raise ray.exceptions.ActorUnavailableError("nobody waits for it any more", None)

    monkeypatch.setattr(registry_calls, "registry", search)
    monkeypatch.setattr(registry_calls, "ANSWER_S", LIMIT_S)
    monkeypatch.setattr(registry_calls, "SEND_S", LIMIT_S)
    yield RegistryCalls(CacheSection(), lambda note: None, away_s=0.0)
    is_over.set()


def test_a_search_without_an_end_does_not_outlast_the_limit_of_a_question(searches: RegistryCalls) -> None:
    """The caller takes Ray's error for a reason to go on alone."""
    began = time.monotonic()
    with pytest.raises(ray.exceptions.GetTimeoutError, match=r"did not answer within 0\.1 s"):
        searches.ask("key", ASKER)
    assert time.monotonic() - began < LONG_S / 2


@pytest.mark.parametrize("send", [lambda c: c.give_up("key", "token"), lambda c: c.installed(None, "node")])
def test_what_nobody_waits_for_is_left_out_after_a_while(
    searches: RegistryCalls, send: Callable[[RegistryCalls], None]
) -> None:
    """A lease ends by its silence, and a node is asked what it holds."""
    began = time.monotonic()
    send(searches)
    assert LIMIT_S <= time.monotonic() - began < LONG_S / 2
