"""Processes that `ensure_warm` refuses before it does anything, and a lease whose registry does not answer."""

from __future__ import annotations

import pytest
import ray

from ray_warmup.actors.errors import ClusterError
from ray_warmup.actors.joining import warm_joiner
from ray_warmup.actors.registry.calls import RegistryCalls
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.registry.values import Asker
from tests.engines.tiny_engine import tiny_config


@pytest.mark.parametrize(("is_connected", "said"), [(False, "call ray.init first"), (True, "through Ray Client")])
def test_a_process_of_no_node_is_refused(monkeypatch: pytest.MonkeyPatch, is_connected: bool, said: str) -> None:
    """Not connected, or from a machine that is no node: the message says where to call it."""
    monkeypatch.setattr(ray, "is_initialized", lambda: is_connected)
    monkeypatch.setattr(warm_joiner, "is_connected_by_client", lambda: True)
    with pytest.raises(ClusterError, match=said):
        warm_joiner.ensure_warm(tiny_config())


class Registry(RegistryCalls):
    """Answers signs of life with these, one after the other; an exception is raised."""

    def __init__(self, answers: list[bool | Exception]) -> None:
        super().__init__(CacheSection(), lambda note: None)
        self.answers = answers

    def beat(self, key: str, token: str, holder: Asker, progress: str) -> bool:
        """The next one."""
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_registry_that_does_not_answer_costs_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its silence is known, so that nothing is offered to it. An answer that comes later counts."""
    monkeypatch.setattr(warm_joiner, "TOGETHER_S", 60.0)  # no signs of life but those asked for here
    answers: list[bool | Exception] = [ray.exceptions.GetTimeoutError(), True, False]
    lease = warm_joiner._Leadership(Registry(answers), "key", "token", Asker("node", 1))
    seen = [(lease.confirm(), lease.is_heard, lease.is_lost) for _ in range(3)]
    lease._ended.set()
    assert seen == [(True, False, False), (True, True, False), (False, True, True)]
