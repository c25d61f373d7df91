"""Calls to a registry that dies: repeated until it is back, given up after a while."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ray_warmup.actors import registry_calls
from ray_warmup.actors.registry_calls import RegistryCalls
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.registry.values import Asker, Lead

ASKER = Asker("node", 1)


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
