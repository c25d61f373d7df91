"""Exceptions, deadlines, wrong answers: the run ends as FAILED and says who, where, what and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ray_warmup.warmup.machine.commands import Failure
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.failures.failure_window import GRACE_S
from ray_warmup.warmup.machine.state.phase import Phase
from tests.unit.warmup.machine.driver import Driver

NOISE = Failure("RuntimeError", "too late")
CALLS = {
    Phase.PROBING: "probe",
    Phase.LOOKUP: "look_up",
    Phase.COMPILING: "survey",
    Phase.TUNING: "tune",
    Phase.GUARDING: "guard",
    Phase.PUSHING: "pack",
    Phase.INSTALLING: "install",
    Phase.LOADING: "load",
    Phase.REPLAYING: "replay",
}


@pytest.mark.parametrize("phase", CALLS)
def test_an_exception_fails_the_run_in_every_phase(phase: Phase) -> None:
    """Whatever phase it is raised in, the run is FAILED with rank, node, GPU, phase, kind, message and traceback."""
    driver = Driver().until(phase)
    call = driver.in_flight(CALLS[phase])[-1]
    driver.fails(call, "TuningError", "no such kernel", "Traceback: line 1")
    driver.tick(GRACE_S + 0.1)
    report = driver.report
    assert driver.phase is Phase.FAILED
    assert not report.ready
    node = driver.world.infos[call.rank]
    for word in (str(node), f"phase {phase}", "TuningError: no such kernel", "Traceback: line 1"):
        assert word in str(report.error)
    assert report.ranks[call.rank].state == "failed"


def test_the_failing_rank_keeps_its_task() -> None:
    """A rank's own error text names the task it worked on and how long the phase had run."""
    driver = Driver().until(Phase.TUNING)
    driver.now += 12.5
    call = driver.in_flight("tune")[0]
    driver.fails(call, message="boom")
    text = driver.report.ranks[0].error or ""
    assert "task c0t" in text
    assert "12.5 s into the phase" in text


def test_equal_failures_are_folded() -> None:
    """Four ranks that fail with one message give one paragraph that names all four; another message gets its own."""
    driver = Driver(nodes=1, per_node=5).until(Phase.LOADING)
    for call in driver.in_flight("load"):
        driver.fails(call, "LoadError", "not the table" if call.rank < 4 else "no memory", "Traceback: the same")
    assert driver.phase is Phase.FAILED
    error = driver.report.error or ""
    assert error.count("LoadError: not the table") == 1
    assert error.count("Traceback") == 2
    assert all(f"rank {rank} on node" in error for rank in range(5))


def test_after_a_failure_nothing_new_is_asked() -> None:
    """During the grace for equal failures no rank gets more work, and no dead rank is replaced."""
    driver = Driver(strategy="sharded", tasks=12).until(Phase.TUNING)
    first, *others = driver.in_flight("tune")
    driver.fails(first)
    asked = len(driver.log)
    driver.answer(others[0])
    driver.kill(3)
    assert len(driver.log) == asked
    assert driver.phase is Phase.TUNING
    driver.tick(GRACE_S + 0.1)
    assert driver.phase is Phase.FAILED


def test_a_failure_ends_at_once_when_nobody_else_can_add_to_it() -> None:
    """With no other call in flight the run does not wait for the clock."""
    driver = Driver(nodes=1, per_node=1).until(Phase.PUSHING)
    driver.fails(driver.in_flight("pack")[0])
    assert driver.phase is Phase.FAILED


@pytest.mark.parametrize("phase", CALLS)
def test_every_phase_has_a_deadline(phase: Phase) -> None:
    """A phase that is late names its setting, the ranks it waits for and not the others, and what they do."""
    driver = Driver(sections={"timeouts": {phase.value.lower(): 20}}).until(phase)
    waiting = {command.rank for command in driver.flying.values()}
    driver.tick(19.0)
    assert driver.phase is phase
    driver.tick(2.0)
    assert driver.phase is Phase.FAILED
    error = driver.report.error or ""
    assert f"phase {phase} took 21.0 s of 20 s allowed (timeouts.{phase.value.lower()})" in error
    named = {rank for rank in range(4) if f"rank {rank} on node" in error}
    assert named == waiting
    assert "(last heard 0.0 s ago" in error


def test_a_late_phase_names_only_those_who_are_late() -> None:
    """Ranks that have answered are not blamed; the heartbeat of the late one is quoted."""
    driver = Driver().until(Phase.LOADING)
    for call in driver.in_flight("load"):
        if call.rank != 2:
            driver.answer(call)
    beat = Status("load", "", "CudnnRunner", "4", since=driver.now)
    driver.tick(298.0, {2: beat})
    driver.tick(3.0, silent={2: replace(beat, heard=driver.now)})
    error = driver.report.error or ""
    assert "rank 2 on node" in error
    assert not any(f"rank {rank} on node" in error for rank in (0, 1, 3))
    assert "last heard 3.0 s ago, runner CudnnRunner, tactic 4" in error
    assert driver.machine.run.overdue == (2,)


def test_a_late_phase_names_a_missing_replacement() -> None:
    """A rank whose replacement does not come up is what the phase waits for."""
    driver = Driver().until(Phase.COMPILING)
    driver.kill(3)
    for call in driver.in_flight("survey"):
        driver.answer(call)
    driver.tick(3601.0)
    assert "rank 3 on node node1 (10.0.0.1, GPU 1) [GPU]: waiting for a fresh process in its place" in str(
        driver.report.error
    )


def test_a_task_has_a_deadline_of_its_own() -> None:
    """A task that is late by its heartbeat names device, task, runner, tactic, elapsed time and the setting."""
    driver = Driver(sections={"timeouts": {"task": 30}}).until(Phase.TUNING)
    task = driver.in_flight("tune")[0].task_id  # type: ignore[union-attr]
    beat = Status("tune", str(task), "CudnnFp8GemmRunner", "7", since=driver.now, heard=driver.now)
    driver.tick(29.0, {0: beat})
    assert driver.phase is Phase.TUNING
    driver.tick(12.0, {0: beat})
    assert [command.is_hung for command in driver.replacing] == [True]
    (error,) = [warning for warning in driver.machine.run.warnings if "timeouts.task" in warning]
    for word in ("rank 0 on node", "[GPU]", "phase TUNING", f"task {task}", "runner CudnnFp8GemmRunner", "tactic 7"):
        assert word in error
    assert "for 31.0 s of 30 s allowed (timeouts.task)" in error


def test_a_task_that_began_late_has_its_whole_time() -> None:
    """The rank says since when it is at the task that it was asked for; what it did before does not count."""
    driver = Driver(nodes=1, per_node=1, sections={"timeouts": {"task": 30}}).until(Phase.TUNING)
    task = str(driver.in_flight("tune")[0].task_id)  # type: ignore[union-attr]
    driver.tick(35.0, {0: Status("tune", task, since=driver.now + 10.0)})
    assert not driver.replacing
    driver.tick(1.0, {0: Status("tune", "another", since=driver.now)})
    assert [command.rank for command in driver.replacing] == [0]


def test_a_rank_that_hangs_too_often_fails_the_run() -> None:
    """After the last allowed replacement a late task ends the run, with everything that is known in the error."""
    driver = Driver(nodes=1, per_node=1, tasks=1, sections={"timeouts": {"task": 30}}).until(Phase.TUNING)
    for _ in range(3):
        driver.tick(31.0)
        if driver.replacing:
            driver.bring_back()
            driver.answer(driver.in_flight("probe")[0])
    assert driver.phase is Phase.FAILED
    assert driver.machine.run.overdue == (0,)
    assert "for 31.0 s of 30 s allowed (timeouts.task)" in str(driver.report.error)


def test_an_old_heartbeat_does_not_blame_a_new_attempt() -> None:
    """The last heartbeat of a dead process does not count against its replacement on the same task."""
    driver = Driver(nodes=1, per_node=1, tasks=1, sections={"timeouts": {"task": 30}}).until(Phase.TUNING)
    task = driver.in_flight("tune")[0].task_id  # type: ignore[union-attr]
    stale = {0: Status("tune", str(task), "Runner", "1", since=driver.now, heard=driver.now)}
    driver.tick(29.0, stale)
    driver.kill(0)
    driver.bring_back()
    driver.answer(driver.in_flight("probe")[0])
    assert driver.in_flight("tune")
    driver.tick(5.0, stale)
    assert driver.phase is Phase.TUNING


def test_another_digest_fails() -> None:
    """A rank that holds another table than it was sent is never ready."""
    driver = Driver()
    driver.changes["load", 3] = {"digest": "0" * 64}
    report = driver.finish()
    assert not report.ready
    assert "rank 3" in str(report.error)
    assert f"it holds digest {'0' * 64}, the class has {driver.rank_class().digest}" in str(report.error)


def test_a_miss_fails() -> None:
    """A rank for which a task misses the loaded table is never ready; the tasks are counted and named."""
    driver = Driver()
    driver.changes["load", 1] = {"misses": ["c0t0@3", "c0t1@3", "c0t2@3", "c0t2@5"]}
    report = driver.finish()
    assert not report.ready
    assert "4 of its tasks miss the table it loaded: c0t0@3, c0t1@3, c0t2@3" in str(report.error)
    assert report.ranks[1].misses == 4


def test_a_failed_replay_fails() -> None:
    """A loaded task that cannot run is a failure of that rank."""
    driver = Driver()
    driver.changes["replay", 2] = {"failed": ["c0t0: CUDA error"]}
    report = driver.finish()
    assert not report.ready
    assert "ReplayError: c0t0: CUDA error" in str(report.error)


def test_an_interrupt_fails_with_its_reason() -> None:
    """`fail` from outside ends the run in its phase; nothing is asked afterwards, whatever still arrives."""
    driver = Driver().until(Phase.TUNING)
    driver.machine.fail("interrupted", driver.now)
    assert driver.phase is Phase.FAILED
    late: list[Any] = [
        driver.machine.returned(c.call_id, {"task_id": "c0t0", "outcome": "tuned"}, 1.0, 5.0)
        for c in driver.in_flight("tune")[:1]
    ]
    late += [driver.machine.raised(c.call_id, NOISE, 6.0) for c in driver.in_flight("tune")[1:]]
    late += [driver.machine.died(0, "gone", 7.0), driver.machine.tick(9999.0, {})]
    assert late == [[]] * len(late)
    assert driver.report.error == "interrupted"
    assert "FAILED" not in driver.report.phases
    assert all("FAILED" not in rank.phases for rank in driver.report.ranks)


def test_a_replacement_with_another_key_is_refused() -> None:
    """A fresh process whose environment differs fails the run and shows both keys."""
    driver = Driver().until(Phase.TUNING)
    driver.world.foreign_ranks = {3}
    driver.kill(3)
    driver.bring_back()
    driver.answer(driver.in_flight("probe")[0])
    driver.tick(GRACE_S + 0.1)
    assert driver.phase is Phase.FAILED
    assert "rank 3 on node" in str(driver.report.error)
    assert f"its replacement has cache key {'f' + '0' * 11}, not {'0' * 12}" in str(driver.report.error)
