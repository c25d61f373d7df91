"""A driver that follows its coordinator, and one that waits its turn: what ends either, with Ray's calls scripted."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from ray_warmup.actors.driver import following, warmup_run
from ray_warmup.actors.driver.following import FINAL_S, KEPT
from ray_warmup.actors.driver.warmup_run import Turn
from ray_warmup.actors.errors import BusyError, CoordinatorLostError
from ray_warmup.configs.schema import TimeoutsSection
from ray_warmup.warmup.report import WarmupReport

REPORT = {"event": "report", "report": WarmupReport(run_id="r1", config={}, error="planted").to_json()}
TUNING = {"event": "phase", "phase": "TUNING"}


class Answers:
    """A coordinator's events and its answers to `status`: None is silence, an exception is raised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, events: list[Any], status: Any = None) -> None:
        self.events, self._status = events, status
        self.asked: dict[str, int] = {}
        self.now = 0.0
        self.run = self.status = self.stop = self.wait = self
        clock = types.SimpleNamespace(monotonic=lambda: self.now, sleep=self.pass_time)
        monkeypatch.setattr(following, "time", clock)
        monkeypatch.setattr(warmup_run, "time", clock)
        monkeypatch.setattr(ray, "wait", self.until_ready)
        monkeypatch.setattr(ray, "get", self.value)
        self.run = Method(self, "run", lambda: Stream(self.events))
        self.status = Method(self, "status", lambda: ("status", self._status))
        self.stop = Method(self, "stop", lambda: ("stop", "stopped"))
        self.wait = Method(self, "wait", lambda: ("wait", None))

    def pass_time(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self.now += seconds

    def until_ready(self, refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        """`ray.wait`."""
        (ref,) = refs
        silent = ref.is_silent() if isinstance(ref, Stream) else ref[1] is None
        if silent:
            self.now += timeout
            return [], refs
        return refs, []

    def value(self, ref: Any, timeout: float | None = None) -> Any:
        """`ray.get`."""
        found = ref[1] if isinstance(ref, tuple) else ref
        if isinstance(found, BaseException):
            raise found
        return found


class Stream(Iterator[Any]):
    """What `run` streams."""

    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def is_silent(self) -> bool:
        """None at the head is a silence; the last one lasts."""
        if self._events and self._events[0] is None:
            if len(self._events) > 1:
                self._events.pop(0)
            return True
        return False

    def __next__(self) -> Any:
        if not self._events:
            raise StopIteration
        return self._events.pop(0)


class Method:
    """A remote method, whose calls are counted."""

    def __init__(self, answers: Answers, name: str, make: Callable[[], Any]) -> None:
        self._answers, self._name, self._make = answers, name, make

    def remote(self, *_: object) -> Any:
        """Call it."""
        self._answers.asked[self._name] = self._answers.asked.get(self._name, 0) + 1
        return self._make()


def follow(answers: Answers, told: list[Any] | None = None) -> WarmupReport:
    """To the report."""
    return following.following_of(answers, [].append if told is None else told.append, TimeoutsSection()).until_report()


def test_events_are_passed_on_until_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control."""
    told: list[Any] = []
    assert follow(Answers(monkeypatch, [TUNING, None, REPORT], {"phase": "TUNING"}), told).error == "planted"
    assert told == [TUNING]


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.ObjectLostError("ab" * 28, None, ""),
        ray.exceptions.RaySystemError("GCS is unavailable"),
        ray.exceptions.RpcError("unavailable"),
        ray.exceptions.OutOfMemoryError("worker killed"),
        ConnectionError("Request can't be sent because the Ray client has already been disconnected"),
        StopIteration(),
    ],
)
@pytest.mark.parametrize("where", ["event", "status"])
def test_whatever_ray_raises_is_translated(error: BaseException, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an event or in the answer to a question: one error of ours, which begins with our own words."""
    events = [TUNING, error] if where == "event" else [TUNING, None]
    with pytest.raises(CoordinatorLostError) as caught:
        follow(Answers(monkeypatch, events, error))
    assert KEPT in str(caught.value).splitlines()[0]


def test_a_dead_coordinator_is_told_in_our_words_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to do stands in the first line, what Ray says in one line below."""
    notice = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: Coordinator\n" + "\tmore: text\n" * 9
    )
    with pytest.raises(CoordinatorLostError) as caught:
        follow(Answers(monkeypatch, [ray.exceptions.RayActorError(error_msg=notice)]))
    first, second = str(caught.value).splitlines()
    assert first == f"the coordinator died. {KEPT}"
    assert second.startswith("Ray says: ")


@pytest.mark.parametrize("module", ["ray_warmup", "ray_warmup.actors", "pydantic"])
def test_a_head_without_the_package_gets_that_advice(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept and running again does not help: install it, or let it travel."""
    notice = f"The actor failed to import.\nModuleNotFoundError: No module named '{module}'"
    with pytest.raises(CoordinatorLostError) as caught:
        follow(Answers(monkeypatch, [ray.exceptions.RayActorError(error_msg=notice)]))
    text = str(caught.value)
    assert ("is not installed on the head node" in text, "--working-dir" in text) == (True, True)
    assert "run again to resume" not in text


def test_silence_alone_ends_nothing_while_the_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator whose answers are late but whose process lives is waited for, with one question and one line."""
    monkeypatch.setattr(following, "lives", lambda coordinator: True)
    told: list[Any] = []
    answers = Answers(monkeypatch, [TUNING, *[None] * 60, REPORT])
    assert follow(answers, told).error == "planted"
    assert answers.now > 300
    assert answers.asked == {"run": 1, "status": 1}
    assert [event["event"] for event in told] == ["phase", "note"]


def test_a_silence_of_a_process_that_does_not_run_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, gone or out of reach: the driver says so after the usual silence."""
    monkeypatch.setattr(following, "lives", lambda coordinator: False)
    answers = Answers(monkeypatch, [TUNING, None])
    with pytest.raises(CoordinatorLostError, match="did not answer for 20 s"):
        follow(answers)
    assert answers.now <= 20


def test_no_silence_lasts_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than all deadlines of a run together, no run can take."""
    monkeypatch.setattr(following, "lives", lambda coordinator: True)
    answers = Answers(monkeypatch, [None])
    with pytest.raises(CoordinatorLostError):
        follow(answers)
    assert answers.now < 20_000


@pytest.mark.parametrize(
    ("events", "status"), [([{"event": "phase", "phase": "READY"}, None], "READY"), ([None], "FAILED")]
)
def test_a_final_phase_without_a_report_has_a_deadline(
    events: list[Any], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator answers for ever that it is over: the driver does not follow for ever."""
    answers = Answers(monkeypatch, events, {"phase": status})
    with pytest.raises(CoordinatorLostError, match="its report did not come"):
        follow(answers)
    limit = FINAL_S + TimeoutsSection().installing
    assert limit < answers.now < limit + 30


def test_a_stopped_run_is_followed_to_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interrupt the same stream goes on; without a report in time there is none."""
    answers = Answers(monkeypatch, [TUNING, REPORT])
    followed = following.following_of(answers, [].append, TimeoutsSection())
    report = followed.stopped("interrupted")
    assert report is not None
    assert report.error == "planted"
    silent = Answers(monkeypatch, [None], {"phase": "TUNING"})
    assert following.following_of(silent, [].append, TimeoutsSection()).stopped("interrupted") is None
    assert silent.now < 60


def test_a_waiting_driver_asks_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours of waiting leave one unanswered call in the other run's coordinator, not thousands."""
    answers = Answers(monkeypatch, [])
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: answers)

    def taken() -> Any:
        raise ray.exceptions.ActorAlreadyExistsError("Actor with name warmup-x already exists")

    told: list[Any] = []
    with pytest.raises(BusyError, match=r"7200 s \(timeouts.single_flight\)"):
        Turn("warmup-x", 7200.0, True, told.append).take(taken)
    assert answers.asked == {"wait": 1}
    assert told == [{"event": "waiting", "actor": "warmup-x"}]
    assert answers.now < 7210


def test_a_turn_comes_when_the_other_run_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer, and an actor that is gone, both lead to another try, and a further run is asked anew."""
    answers = Answers(monkeypatch, [])
    answers.wait = Method(answers, "wait", lambda: ("wait", "READY"))
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: answers)
    tries: list[str] = []

    def taken_twice() -> str:
        tries.append("")
        if len(tries) < 3:
            raise ray.exceptions.ActorAlreadyExistsError("Actor with name warmup-x already exists")
        return "coordinator"

    assert Turn("warmup-x", 7200.0, True, [].append).take(taken_twice) == "coordinator"
    assert answers.asked == {"wait": 2}


def test_no_wait_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a question to anyone."""
    answers = Answers(monkeypatch, [])

    def taken() -> Any:
        raise ray.exceptions.ActorAlreadyExistsError("Actor with name warmup-x already exists")

    with pytest.raises(BusyError, match="another run of this work is active"):
        Turn("warmup-x", 7200.0, False, [].append).take(taken)
    assert (answers.asked, answers.now) == ({}, 0.0)
