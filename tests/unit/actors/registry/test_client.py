"""The search for a registry whose cluster's control service does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from ray_warmup.actors.registry import client as registry_client
from ray_warmup.configs.schema import CacheSection

LONG_S = 10.0


@pytest.fixture
def is_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Ends a search that lasts for a long time."""
    event = threading.Event()

    def search(name: str, namespace: str) -> Any:
        assert event.wait(LONG_S)
        raise ValueError(name)

    monkeypatch.setattr(ray, "get_actor", search)
    monkeypatch.setattr(registry_client, "FIND_S", 0.1)
    yield event
    event.set()


def test_a_search_has_a_limit(is_over: threading.Event) -> None:
    """Ray's own has none. Once the service answers, an absence is said."""
    began = time.monotonic()
    with pytest.raises(ray.exceptions.GetTimeoutError, match=r"within 0\.1 s"):
        registry_client.found_registry()
    assert time.monotonic() - began < LONG_S / 2
    is_over.set()
    assert registry_client.found_registry() is None


@pytest.mark.usefixtures("is_over")
def test_a_run_that_is_over_does_not_wait_for_it() -> None:
    """The registry is not told, which is no error."""
    began = time.monotonic()
    assert registry_client.tell_registry(CacheSection()) == ()
    assert time.monotonic() - began < LONG_S / 2
