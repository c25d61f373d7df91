"""What the leader tunes with an engine's step: once per class, before the push; given up when it does not work."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.messages.values import TextFile
from tests.unit.warmup.machine.driver import Driver

GIVEN_UP = "nothing was tuned with an engine's step"


def packed(driver: Driver) -> list[Any]:
    """What went along with the order to pack, each time."""
    return [c.question.tuned for c in driver.log if isinstance(c, Call) and c.name == "pack"]


@pytest.mark.parametrize(("strategy", "classes"), [("leader", 1), ("sharded", 2), ("consensus", 1)])
def test_the_leader_tunes_once_for_its_class(strategy: str, classes: int) -> None:
    """After every task and every vote, each class's leader is asked, and what it says is packed with the table."""
    driver = Driver(tunes_engine=True, strategy=strategy, classes=classes)
    report = driver.finish()
    assert report.ready
    leaders = [rank_class.leader for rank_class in driver.machine.run.classes.values()]
    assert driver.asked("tune_engine") == leaders
    assert [[file.content for file in files] for files in packed(driver)] == [
        [rank_class.key] for rank_class in driver.machine.run.classes.values()
    ]
    methods = [c.name for c in driver.log if isinstance(c, Call)]
    last = max(index for index, method in enumerate(methods) if method in ("tune", "compare", "vote"))
    assert last < methods.index("tune_engine") < methods.index("guard")


def test_where_there_is_nothing_to_tune_nobody_is_asked() -> None:
    """The ranks said so when they were probed."""
    driver = Driver()
    assert driver.finish().ready
    assert (driver.asked("tune_engine"), packed(driver)) == ([], [()])


def test_a_found_table_brings_it_along() -> None:
    """On a hit nobody tunes; a table that is guarded now is packed with the files that lay beside it."""
    driver = Driver(tunes_engine=True)
    driver.store(0, 1, guarded=False)
    files = (TextFile("decode.json", "found"),)
    driver.changes["recall_table", 0] = {"tuned": files}
    assert driver.finish().ready
    assert (driver.asked("tune_engine"), packed(driver)) == ([], [files])


def test_an_exception_costs_the_decode_profiles_only() -> None:
    """The run goes on with the table alone, and the warning names rank and error."""
    driver = Driver(tunes_engine=True).until(Phase.TUNING)
    while not driver.in_flight("tune_engine"):
        driver.answer(next(iter(driver.flying.values())))
    driver.fails(driver.in_flight("tune_engine")[0], "RuntimeError", "planted")
    report = driver.finish()
    assert report.ready
    assert packed(driver) == [()]
    assert any(GIVEN_UP in line and "RuntimeError: planted" in line for line in report.warnings)


def test_a_required_one_fails_the_run() -> None:
    """With `engine.required: [sm120_decode]` the exception is the run's."""
    driver = Driver(tunes_engine=True, sections={"engine": {"required": ["sm120_decode"]}}).until(Phase.TUNING)
    while not driver.in_flight("tune_engine"):
        driver.answer(next(iter(driver.flying.values())))
    driver.fails(driver.in_flight("tune_engine")[0], "EngineWarmupError", "planted")
    report = driver.finish()
    assert not report.ready
    assert "planted" in (report.error or "")


@pytest.mark.parametrize("is_leader", [True, False])
def test_a_death_in_it_is_not_repeated(is_leader: bool) -> None:
    """The leader dies in it: nobody tries again. Another rank dies meanwhile: the leader's work counts."""
    driver = Driver(tunes_engine=True).until(Phase.TUNING)
    while not driver.in_flight("tune_engine"):
        driver.answer(next(iter(driver.flying.values())))
    driver.kill(0 if is_leader else 1)
    report = driver.finish()
    assert report.ready
    assert len(driver.asked("tune_engine")) == 1
    assert bool(packed(driver)[0]) is not is_leader
    assert any(GIVEN_UP in line for line in report.warnings) is is_leader


def test_one_that_hangs_is_ended_at_its_deadline() -> None:
    """The leader is replaced after `engine.deadlines.sm120_decode`, and the run goes on without."""
    driver = Driver(tunes_engine=True, sections={"engine": {"deadlines": {"sm120_decode": 20}}}).until(Phase.TUNING)
    while not driver.in_flight("tune_engine"):
        driver.answer(next(iter(driver.flying.values())))
    began = driver.now
    driver.tick(19.0, {0: Status("warm", "sm120_decode", since=began, heard=began + 19)})
    assert driver.in_flight("tune_engine")
    driver.flying.clear()
    driver.tick(2.0, {0: Status("warm", "sm120_decode", since=began, heard=began + 21)})
    report = driver.finish()
    assert report.ready
    assert any("sm120_decode is left out" in line and "no end after 21.0 s" in line for line in report.warnings)
