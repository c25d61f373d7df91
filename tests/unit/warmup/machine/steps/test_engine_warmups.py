"""Engine warmups in the machine: asked after the replay, deadlines, what a death or a hang leaves out, the report."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Call, Replace
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.messages.questions import Warm
from ray_warmup.warmup.messages.values import CrashRecord
from ray_warmup.warmup.report import EngineReport, EngineWarmupEntry, VerificationReport
from tests.unit.warmup.machine.driver import Driver

OUTCOME = EngineWarmupEntry(name="prefill_decode", state="done", severity="required", seconds=1.0, shapes=("a",))


def report_of(**changes: Any) -> dict[str, EngineReport]:
    """What a rank says of its warmups."""
    return {"report": EngineReport(**{"outcomes": (OUTCOME,), **changes})}


def hanging(driver: Driver, rank: int, name: str) -> dict[int, Status]:
    """A rank whose warmup began now and says nothing new."""
    return {rank: Status("warm", name, since=driver.now, heard=driver.now)}


def calls(driver: Driver, method: str) -> list[Call]:
    """Calls of a method so far."""
    return [c for c in driver.log if isinstance(c, Call) and c.name == method]


def test_every_rank_warms_after_its_own_replay_and_waits_for_no_other() -> None:
    """A rank is asked as soon as it has replayed, while another has not yet; all are asked once."""
    driver = Driver().until(Phase.REPLAYING)
    driver.answer(driver.in_flight("replay", 2)[0])
    assert [call.rank for call in driver.in_flight("warm")] == [2]
    assert driver.finish().ready
    assert sorted(driver.asked("warm")) == [0, 1, 2, 3]


def test_what_ranks_said_is_in_the_report() -> None:
    """Outcomes and counts are in the rank's part; a warning of several ranks is said once."""
    driver = Driver()
    seen = VerificationReport(requests=3, steps=9, compiled={"triton": 1}, loaded={}, unavailable={}, events=("k",))
    for rank in (0, 1):
        said = report_of(verification=seen)
        driver.changes["warm", rank] = {**said, "warnings": ("sm120_decode: no entry point",)}
    driver.changes["warm", 3] = report_of(reason="engine.enabled is false", outcomes=())
    report = driver.finish()

    assert report.ready
    assert report.warnings.count(f"engine warmup: sm120_decode: no entry point -> {remedies.LEFT_OUT}") == 1
    entries = [rank.engine for rank in report.ranks]
    assert entries[0] is not None
    assert entries[0].outcomes[0].name == "prefill_decode"
    assert entries[0].verification is not None
    assert entries[0].verification.compiled == {"triton": 1}
    assert entries[3] is not None
    assert (entries[3].reason, entries[3].outcomes) == ("engine.enabled is false", ())


def test_a_required_warmup_that_failed_fails_the_rank() -> None:
    """Rank, warmup and reason are in the error; what the rank said of the others is kept."""
    driver = Driver()
    driver.changes["warm", 1] = {"failed": ("prefill_decode: ValueError: planted",)}
    report = driver.finish()

    assert not report.ready
    assert report.error is not None
    assert "rank 1 on node" in report.error
    assert "EngineWarmupError: prefill_decode: ValueError: planted" in report.error
    assert report.ranks[1].engine is not None


def test_an_optional_warmup_that_hangs_is_left_out_by_a_fresh_process() -> None:
    """Past its deadline the process is replaced; its successor loads, replays and warms without it."""
    driver = Driver(sections={"engine": {"deadlines": {"serving_shapes": 20}}}).until(Phase.REPLAYING)
    driver.answer(driver.in_flight("replay", 1)[0])
    status = hanging(driver, 1, "serving_shapes")
    driver.tick(19.0, status)
    assert not driver.replacing
    driver.tick(2.0, status)

    (command,) = driver.replacing
    assert (command.rank, command.is_hung) == (1, True)
    assert (
        "engine warmup serving_shapes: for 21.0 s of 20 s allowed (engine.deadlines.serving_shapes)" in command.reason
    )
    driver.flying = {i: c for i, c in driver.flying.items() if c.rank != 1}
    report = driver.finish()
    assert report.ready
    assert calls(driver, "warm")[-1].question == Warm({"serving_shapes": "no end after 21.0 s"})
    assert any("engine warmup serving_shapes is left out on rank 1" in warning for warning in report.warnings)


def test_a_required_warmup_that_hangs_fails_the_run() -> None:
    """No process is replaced; the error names rank, warmup, time and setting."""
    driver = Driver().until(Phase.REPLAYING)
    driver.answer(driver.in_flight("replay", 1)[0])
    driver.tick(601.0, hanging(driver, 1, "prefill_decode"))

    assert driver.phase is Phase.FAILED
    assert not driver.replacing
    error = driver.report.error or ""
    assert "rank 1 on node" in error
    assert "engine warmup prefill_decode: for 601.0 s of 600 s allowed (engine.deadlines.prefill_decode)" in error


def test_a_heartbeat_of_something_else_is_no_hang() -> None:
    """Making the runner, and a beat from before the warmups, have no deadline of a warmup."""
    driver = Driver().until(Phase.REPLAYING)
    driver.answer(driver.in_flight("replay", 1)[0])
    for method, name in (("warm", "runner"), ("replay", "serving_shapes")):
        beats = {rank: Status(method, name, since=0.0, heard=driver.now + 400.0) for rank in range(4)}
        driver.tick(400.0, beats)
    assert driver.phase is Phase.REPLAYING
    assert not driver.replacing


@pytest.mark.parametrize(("name", "left_out"), [("serving_shapes", True), ("prefill_decode", False), ("verify", False)])
def test_a_death_within_an_optional_warmup_leaves_it_out(name: str, left_out: bool) -> None:
    """The successor reads what its predecessor did last; a required warmup is tried again."""
    driver = Driver().until(Phase.REPLAYING)
    driver.answer(driver.in_flight("replay", 1)[0])
    driver.kill(1)
    assert isinstance(driver.replacing[0], Replace)
    driver.changes["probe", 1] = {"last_words": CrashRecord("warm", name, "", "", "")}
    report = driver.finish()

    assert report.ready
    again = calls(driver, "warm")[-1]
    assert again.rank == 1
    assert again.question == Warm({name: "it ran when the process died"} if left_out else {})
    assert len([c for c in calls(driver, "load") if c.rank == 1]) == 2


def test_the_phase_deadline_names_the_warmup() -> None:
    """When REPLAYING as a whole is late, the error says which warmup each rank is at."""
    driver = Driver(sections={"timeouts": {"replaying": 50}}).until(Phase.REPLAYING)
    driver.answer(driver.in_flight("replay", 1)[0])
    driver.tick(51.0, {1: Status("warm", "sampler_features", since=driver.now + 40, heard=driver.now + 50)})

    assert driver.phase is Phase.FAILED
    assert "warm (last heard 0.0 s ago, at sampler_features, for 11.0 s)" in (driver.report.error or "")
