"""What a death is blamed on: fatal signals and hangs on the tactic, a kill from outside only when it repeats."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ray_warmup.warmup.machine.commands import Call, Failure
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.messages.values import CrashRecord
from ray_warmup.warmup.messages.wire import to_bytes
from ray_warmup.warmup.tasks import Choice, TacticId
from tests.sim.world import make_verdict
from tests.unit.warmup.machine.driver import Driver, name_of

FATAL = "Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n  File gemm.py"


BAD = TacticId("bf16_gemm", "BadRunner", "7")


def words(task_id: str, **values: str) -> CrashRecord:
    """What a dead process wrote last."""
    return replace(CrashRecord("tune", task_id, BAD.op, BAD.runner, BAD.tactic), **values)


def die(driver: Driver, rank: int = 0, **values: str) -> str:
    """The rank dies with its oldest task in flight, and comes back with last words of it."""
    task_id = str(driver.in_flight("tune", rank)[0].task_id)  # type: ignore[union-attr]
    driver.changes[("probe", rank)] = {"last_words": words(task_id, **values)}
    driver.kill(rank)
    come_back(driver)
    return task_id


def come_back(driver: Driver) -> None:
    """The lost rank's successor describes itself."""
    driver.bring_back()
    driver.answer(driver.in_flight("probe")[0])


def quarantined(driver: Driver) -> list[str]:
    """Runners that the class keeps away from."""
    return [entry.runner for entry in driver.rank_class().quarantine]


def test_a_fatal_signal_quarantines_the_tactic() -> None:
    """A segmentation fault is the tactic's: it is named with its stack, and later calls are told to keep away."""
    driver = Driver(nodes=1, per_node=2).until(Phase.TUNING)
    task_id = die(driver, stack=FATAL)
    assert quarantined(driver) == ["BadRunner"]
    assert driver.finish().ready
    again = [call for call in driver.log if getattr(call, "task_id", None) == task_id and name_of(call) == "tune"][-1]
    assert again.question.quarantine == (BAD,)  # type: ignore[union-attr]
    assert any(
        "quarantined BadRunner tactic 7" in w and "Segmentation fault; the report has" in w
        for w in driver.machine.run.warnings
    )


def test_a_quarantined_tactic_is_neither_guarded_nor_packed_for_tasks_that_had_chosen_it() -> None:
    """What was measured before the crash gives way to the next best; what the guard had kept, to the default."""
    driver = Driver(nodes=1, per_node=1).until(Phase.TUNING)
    driver.answer(driver.in_flight("tune")[0])
    (first,) = driver.rank_class().results.values()
    bad, other = first.measurements
    entry = TacticId("op", "Fast", json.dumps(bad.tactic))
    die(driver, op="op", runner="Fast", tactic=entry.tactic, stack=FATAL)
    assert driver.rank_class().quarantine == (entry,)

    driver.until(Phase.GUARDING)
    while first.task_id not in driver.rank_class().verdicts:
        driver.answer(driver.in_flight("guard")[0])
    guarded = [call.question.result for call in driver.log if isinstance(call, Call) and call.name == "guard"]
    assert [r.choice.tactic for r in guarded if r.task_id == first.task_id] == [other.tactic]
    driver.rank_class().verdicts[first.task_id] = make_verdict(first)
    driver.until(Phase.PUSHING)
    (pack,) = [call for call in driver.flying.values() if isinstance(call, Call) and call.name == "pack"]
    assert entry.tactic not in to_bytes(pack.question).decode()
    assert driver.rank_class().verdicts[first.task_id].decision == "crashed"


def test_a_kill_from_outside_is_not_the_tactic_s_fault() -> None:
    """One SIGKILL quarantines nothing; the second on the same task does."""
    driver = Driver(nodes=1, per_node=1, tasks=1).until(Phase.TUNING)
    die(driver)
    assert quarantined(driver) == []
    die(driver)
    assert quarantined(driver) == ["BadRunner"]
    assert driver.finish().ready


def test_a_hang_is_the_tactic_s_fault() -> None:
    """A task over its deadline costs one process and the tactic; the run goes on."""
    driver = Driver(nodes=1, per_node=1, tasks=1, sections={"timeouts": {"task": 30}}).until(Phase.TUNING)
    task_id = str(driver.in_flight("tune")[0].task_id)  # type: ignore[union-attr]
    driver.changes[("probe", 0)] = {"last_words": words(task_id)}
    driver.tick(31.0)
    come_back(driver)
    assert quarantined(driver) == ["BadRunner"]
    assert any(f"it hung in task {task_id} on rank 0" in warning for warning in driver.machine.run.warnings)
    assert driver.finish().ready


def test_a_hang_without_a_record_is_the_fault_of_the_tactic_of_the_last_heartbeat() -> None:
    """Nothing is persistent, or the disk refused the record: the tactic is known all the same, one process is lost."""
    sections = {"timeouts": {"task": 30}, "cache": {"persistent": False}}
    driver = Driver(nodes=1, per_node=1, tasks=1, sections=sections).until(Phase.TUNING)
    task_id = str(driver.in_flight("tune")[0].task_id)  # type: ignore[union-attr]
    driver.changes["probe", 0] = {"last_words": None}
    driver.tick(31.0, {0: Status("tune", task_id, "BadRunner", "7", op="bf16_gemm")})
    come_back(driver)
    assert driver.rank_class().quarantine == (BAD,)
    assert driver.finish().ready


def test_a_guard_that_hangs_without_a_record_keeps_the_default_at_once() -> None:
    """Its heartbeats name no tactic; the task is not guarded again."""
    sections = {"timeouts": {"task": 30}, "cache": {"persistent": False}}
    driver = Driver(nodes=1, per_node=1, tasks=1, sections=sections).until(Phase.GUARDING)
    driver.changes["probe", 0] = {"last_words": None}
    driver.tick(31.0)
    come_back(driver)
    assert driver.rank_class().verdicts["c0t0"].decision == "crashed"
    assert driver.finish().ready


def test_the_suspect_task_waits_for_the_successor() -> None:
    """Nobody else gets the task that may have killed its rank before the last words are read."""
    driver = Driver(nodes=1, per_node=2, strategy="sharded", tasks=4).until(Phase.TUNING)
    task_id = str(driver.in_flight("tune", 0)[0].task_id)  # type: ignore[union-attr]
    driver.kill(0)
    while driver.in_flight("tune"):
        driver.answer(driver.in_flight("tune")[0])
    assert task_id not in [call.task_id for call in driver.log if getattr(call, "name", "") == "tune" and call.rank]
    assert driver.finish().ready


def test_words_about_another_task_prove_nothing() -> None:
    """A record that is older than the death is not read as its cause."""
    driver = Driver(nodes=1, per_node=1, tasks=1).until(Phase.TUNING)
    driver.changes[("probe", 0)] = {"last_words": words("other", stack=FATAL)}
    driver.kill(0)
    come_back(driver)
    assert quarantined(driver) == []


def test_a_guard_that_kills_its_process_keeps_the_default() -> None:
    """Without a tactic in the last words the guarded task falls back to the default, and is not guarded again."""
    driver = Driver(nodes=1, per_node=1, tasks=1).until(Phase.GUARDING)
    driver.rank_class().results["c0t0"] = replace(driver.rank_class().results["c0t0"], default_runner="FirstRunner")
    last = words("c0t0", method="guard", runner="", tactic="", stack=FATAL)
    driver.changes[("probe", 0)] = {"last_words": last}
    driver.kill(0)
    come_back(driver)
    verdict = driver.rank_class().verdicts["c0t0"]
    assert (verdict.decision, verdict.choice) == ("crashed", Choice("FirstRunner", -1))
    assert not driver.in_flight("guard")
    (said,) = [
        warning for warning in driver.machine.run.warnings if warning.startswith("the guard of task c0t0 killed")
    ]
    assert "it keeps the default tactic (Fatal Python error: Segmentation fault; the report has its stack)" in said


def lose_context(driver: Driver, method: str, culprit: TacticId | None) -> str:
    """A call ends with its device's context, and the rank comes back; what it was about."""
    call = driver.in_flight(method)[0]
    del driver.flying[call.call_id]
    failure = Failure("DeadContextError", "an illegal memory access", culprit=culprit)
    driver._take(driver.machine.raised(call.call_id, failure, driver.now))
    come_back(driver)
    return str(call.task_id)  # type: ignore[union-attr]


def test_a_dead_context_is_the_fault_of_the_tactic_that_the_error_names() -> None:
    """At its first death, whatever later tactic the record names; without a record (nothing is persistent), too."""
    driver = Driver(nodes=1, per_node=1, tasks=1, sections={"cache": {"persistent": False}}).until(Phase.TUNING)
    driver.changes["probe", 0] = {"last_words": words("c0t0", runner="LaterRunner")}
    lose_context(driver, "tune", BAD)
    assert driver.rank_class().quarantine == (BAD,)

    driver.changes.clear()
    lose_context(driver, "tune", TacticId("bf16_gemm", "WorseRunner", "8"))
    assert quarantined(driver) == ["BadRunner", "WorseRunner"]
    assert driver.finish().ready


def test_a_dead_context_whose_tactic_is_not_known_is_blamed_on_none_at_first() -> None:
    """What the record names may have come later: only a second death convicts it."""
    driver = Driver(nodes=1, per_node=1, tasks=1).until(Phase.TUNING)
    driver.changes["probe", 0] = {"last_words": words("c0t0")}
    lose_context(driver, "tune", None)
    assert quarantined(driver) == []
    lose_context(driver, "tune", None)
    assert quarantined(driver) == ["BadRunner"]


@pytest.mark.parametrize("culprit", [None, TacticId("op", "First", "-1")])
def test_a_guard_that_loses_the_context_keeps_the_default_at_once(culprit: TacticId | None) -> None:
    """Some lap did it, or the default itself: the task is not guarded again, and nothing else is blamed."""
    driver = Driver(nodes=1, per_node=1, tasks=1).until(Phase.GUARDING)
    task_id = lose_context(driver, "guard", culprit)
    assert driver.rank_class().verdicts[task_id].decision == "crashed"
    assert quarantined(driver) == []
    assert driver.finish().ready


def test_a_guard_that_names_the_tactic_quarantines_it_and_judges_the_others() -> None:
    """The guard goes on with the next best; the tactic is out for good."""
    driver = Driver(nodes=1, per_node=1, tasks=1).until(Phase.GUARDING)
    bad, other = driver.rank_class().results["c0t0"].measurements
    lose_context(driver, "guard", TacticId("op", bad.runner, json.dumps(bad.tactic)))
    (call,) = driver.in_flight("guard")
    assert call.question.result.choice.tactic == other.tactic  # type: ignore[union-attr]
    assert driver.finish().ready


def test_a_tactic_that_ran_in_two_deaths_is_quarantined() -> None:
    """Two ranks die in different tasks while the same tactic runs: it is the tactic's fault, whichever the task."""
    driver = Driver(nodes=1, per_node=2, strategy="sharded", tasks=4).until(Phase.TUNING)
    first = die(driver, 0)
    assert quarantined(driver) == []
    assert die(driver, 1) != first
    assert quarantined(driver) == ["BadRunner"]
    assert driver.finish().ready


def test_a_hang_outside_a_task_shows_where_it_stood() -> None:
    """A silent rank without a task is given up, too; its stacks come with the successor."""
    driver = Driver(nodes=1, per_node=2).until(Phase.LOADING)
    driver.changes["probe", 0] = {"last_words": words("", method="load", runner="", stack="Thread 0x1\n  File load.py")}
    driver.answer(driver.in_flight("load", 1)[0])
    driver.tick(31.0, silent=driver.quiet(0))
    come_back(driver)
    assert quarantined(driver) == []
    (warning,) = [text for text in driver.machine.run.warnings if "given up in `load`" in text]
    assert "Thread 0x1; the report has its stack" in warning
    assert "File load.py" in driver.report.ranks[0].stack
    assert driver.finish().ready
