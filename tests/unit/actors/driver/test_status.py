"""Live runs of a cluster: each answers for itself, and who cannot be asked is a problem with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import ray

from ray_warmup.actors.connection.addresses import NAMESPACE
from ray_warmup.actors.driver import status
from ray_warmup.actors.driver.status import ATTEMPTS, live_runs

ABSENT = ray.exceptions.RayTaskError(
    "get_class_info", "a long\ntraceback", AssertionError("Expected str or bytes, got NoneType")
).as_instanceof_cause()
Asked = Callable[..., list[str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Script what is found behind the names; returns the problems and collects the answers in `found`."""
    monkeypatch.setattr(status, "AGAIN_S", 0.0)

    def work(found: list[Any], **answers: list[Any]) -> list[str]:
        names = [{"namespace": NAMESPACE, "name": f"warmup-{name}"} for name in answers]
        monkeypatch.setattr(ray.util, "list_named_actors", lambda all_namespaces: names)
        monkeypatch.setattr(ray, "get_actor", lambda name, namespace: Handle(answers[name.removeprefix("warmup-")]))
        monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
        problems: list[str] = []
        found += live_runs(problems)
        return problems

    return work


class Handle:
    """An actor's handle that gives one scripted answer after the other."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    @property
    def status(self) -> Handle:
        """The method."""
        return self

    def remote(self) -> Any:
        """The next answer."""
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def answer(phase: str) -> dict[str, object]:
    """What a coordinator says."""
    return {"run_id": "r1", "phase": phase, "elapsed_s": 1.0}


def test_a_handle_whose_class_is_not_there_yet_is_asked_again(asked: Asked) -> None:
    """A fresh Ray Client server says so by an assertion; the other run is shown either way."""
    found: list[Any] = []
    assert asked(found, a=[ABSENT, ABSENT, answer("TUNING")], b=[answer("READY")]) == []
    assert [(run.actor, run.phase) for run in found] == [("warmup-a", "TUNING"), ("warmup-b", "READY")]


def test_one_that_never_can_be_used_is_a_problem_in_one_line(asked: Asked) -> None:
    """Named, with the reason, and without Ray's traceback."""
    found: list[Any] = []
    (problem,) = asked(found, a=[ABSENT] * ATTEMPTS)
    assert found == []
    assert problem.startswith("run warmup-a is active and did not answer within 5 s: ")
    assert "Expected str or bytes, got NoneType" in problem
    assert "\n" not in problem


def test_one_that_has_just_ended_is_none(asked: Asked) -> None:
    """Neither shown nor a problem, at whichever question it went."""
    found: list[Any] = []
    assert asked(found, a=[ABSENT, ValueError("no actor of that name")], b=[ray.exceptions.ActorDiedError()]) == []
    assert found == []
