"""Deaths in every phase: the lead passes on, finished tasks stay finished, lost ranks come back or the run fails."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.machine.commands import Call, Replace
from ray_warmup.warmup.machine.failures.policy import Decision, FailurePolicy
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.remedies import parts
from tests.unit.warmup.machine.driver import Driver

PHASES = [phase for phase in Phase if phase not in (Phase.PLACING, Phase.READY, Phase.FAILED)]


@pytest.mark.parametrize("strategy", ["leader", "sharded", "consensus"])
@pytest.mark.parametrize("phase", PHASES)
def test_the_leader_may_die_in_every_phase(phase: Phase, strategy: str) -> None:
    """The run is ready without it ever failing, the dead rank loads like any other, no finished task is repeated."""
    driver = Driver(strategy=strategy, tasks=6).until(phase)
    once = ("tune", "guard")  # `measure` is a vote: every voter has one on every task
    finished = [c for c in driver.log if isinstance(c, Call) and c.name in once and c.call_id not in driver.flying]
    driver.kill(0)
    report = driver.finish()
    assert report.ready
    assert report.ranks[0].digest == report.classes[0].digest
    repeated = {(c.name, c.task_id) for c in finished}
    later = [(c.name, c.task_id) for c in driver.log[driver.log.index(driver_replace(driver)) :] if isinstance(c, Call)]
    assert not repeated & set(later)
    assert any("rank 0 on node node0 (10.0.0.0, GPU 0) died in" in w for w in report.warnings)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("phase", PHASES)
def test_any_rank_may_die_in_every_phase(phase: Phase, rank: int) -> None:
    """Followers and writers are replaced too, and the class ends on one digest."""
    driver = Driver(tasks=4).until(phase)
    driver.kill(rank)
    report = driver.finish()
    assert report.ready
    assert {r.digest for r in report.ranks} == {report.classes[0].digest}


def test_the_next_rank_leads_after_the_leader() -> None:
    """In the middle of TUNING rank 1 takes over at once, without waiting for the replacement, and finishes the rest."""
    driver = Driver(tasks=6).until(Phase.TUNING)
    driver.answer(driver.in_flight("tune")[0])
    finished = {c.task_id for c in driver.log if isinstance(c, Call) and c.name == "tune"}
    lost = {c.task_id for c in driver.in_flight("tune") if isinstance(c, Call)}
    finished -= lost
    driver.kill(0)
    assert driver.rank_class().leader == 1
    assert {c.rank for c in driver.in_flight("tune")} == {1}
    report = driver.finish()
    again = [c.task_id for c in driver.log if isinstance(c, Call) and c.name == "tune" and c.rank == 1]
    assert not finished & set(again)
    assert set(again) >= lost
    assert report.classes[0].leader == 1
    assert "rank 0 led its class and died; rank 1 takes over" in [parts(warning)[0] for warning in report.warnings]


def test_a_slow_device_does_not_take_over() -> None:
    """The lead passes to a rank at its peers' speed, past a slow one."""
    driver = Driver(tasks=6)
    driver.world.slow_ranks = {1: 1.4}
    driver.until(Phase.TUNING)
    driver.kill(0)
    assert driver.rank_class().leader == 2


def test_a_whole_class_may_die() -> None:
    """With every rank of the class gone the run waits, and the first task goes out when the leader is back."""
    driver = Driver(nodes=1, per_node=2, tasks=4).until(Phase.TUNING)
    driver.kill(1)
    driver.kill(0)
    assert not driver.flying
    assert driver.finish().ready


def test_everyone_may_die_while_pushing() -> None:
    """With every rank gone in PUSHING the artifact is packed again by the first that can."""
    driver = Driver(nodes=1, per_node=3).until(Phase.PUSHING)
    for rank in (0, 1, 2):
        driver.kill(rank)
    assert driver.finish().ready


def test_the_holder_of_the_table_may_die_before_it_is_pushed() -> None:
    """A found table whose finder died is packed by another rank of that node, or by the finder's replacement."""
    for per_node, packers in ((2, [2, 3]), (1, [1, 1])):
        driver = Driver(per_node=per_node)
        driver.store(1, 7)
        driver.until(Phase.PUSHING)
        driver.kill(per_node)
        assert driver.finish().ready
        assert driver.asked("pack_stored") == packers


def test_a_writer_that_died_in_lookup_looks_again() -> None:
    """Nobody is asked for markers until the lost writer's replacement has looked and left its own."""
    driver = Driver(nodes=3, per_node=1).until(Phase.LOOKUP)
    driver.kill(1)
    for call in driver.in_flight("look_up"):
        driver.answer(call)
    assert driver.in_flight("find_markers") == []
    driver.bring_back()
    driver.answer(driver.in_flight("probe")[0])
    driver.answer(driver.in_flight("look_up")[0])
    assert sorted(c.rank for c in driver.in_flight("find_markers")) == [0, 1, 2]
    assert driver.finish().ready


def test_a_late_answer_of_a_lost_rank_is_ignored() -> None:
    """An answer that arrives after its rank was given up changes nothing: no table, no command."""
    driver = Driver(tasks=4).until(Phase.TUNING)
    late = driver.in_flight("tune")[0]
    driver.kill(0)
    assert driver.machine.returned(late.call_id, {"task_id": "c0t3", "outcome": "tuned", "choice": 1}, 1.0, 2.0) == []
    assert "c0t3" not in driver.rank_class().results
    assert driver.finish().ready


def test_an_echo_of_a_death_is_ignored() -> None:
    """The same death reported again, before or after the replacement stands, asks for no second replacement."""
    driver = Driver().until(Phase.COMPILING)
    driver.kill(3)
    assert driver.machine.died(3, "again", 1.0, 0) == []
    assert driver.machine.died(3, "again, from one who does not count", 1.0) == []
    driver.bring_back()
    assert driver.machine.died(3, "again, late", 2.0, 0) == []
    assert driver.finish().ready
    assert driver.machine.run.ranks[3].restarts == 1


def test_a_replacement_may_die_before_it_answers() -> None:
    """A fresh process that dies while starting or in its probe is replaced once more, at once."""
    driver = Driver().until(Phase.COMPILING)
    driver.kill(3)
    replacement = driver.replacing.pop(0)
    (again,) = driver.machine.died(3, "did not start", 1.0, replacement.process)
    assert again == Replace(3, "did not start", 2)
    driver.replacing.append(again)
    driver.bring_back()
    assert driver.finish().ready


def test_a_rank_that_keeps_dying_fails_the_run() -> None:
    """The third death is one too many: FAILED, with how often, why, and the task it had."""
    driver = Driver(nodes=1, per_node=1).until(Phase.TUNING)
    for _ in range(2):
        driver.kill(0)
        driver.bring_back()
        driver.answer(driver.in_flight("probe")[0])
    driver.kill(0)
    error = driver.report.error or ""
    assert driver.phase is Phase.FAILED
    assert "rank 0 on node node0" in error
    assert "died 3 times, the last time: exit code 137 (task c0t" in error
    assert driver.report.ranks[0].state == "failed"


def test_a_dead_context_costs_one_process() -> None:
    """DeadContextError replaces the process instead of failing the run."""
    driver = Driver().until(Phase.TUNING)
    driver.fails(driver.in_flight("tune")[0], "DeadContextError", "illegal address")
    driver.flying = {i: c for i, c in driver.flying.items() if c.rank != 0}
    assert [c.rank for c in driver.replacing] == [0]
    assert driver.finish().ready


def test_commands_say_which_process_they_mean() -> None:
    """Calls to a replacement carry its number, so that a death can be told from an echo."""
    driver = Driver().until(Phase.LOADING)
    driver.kill(2)
    driver.bring_back()
    assert [c.process for c in driver.in_flight("probe")] == [1]
    driver.answer(driver.in_flight("probe")[0])
    assert {c.rank: c.process for c in driver.in_flight("load")} == {0: 0, 1: 0, 2: 1, 3: 0}


def test_a_rank_lost_before_the_memory_is_divided_is_waited_for() -> None:
    """A budget is decided only once the lost rank's replacement has described itself, and it gets the same one."""
    driver = Driver(nodes=1, per_node=3)
    driver.world.tight_ranks = {1}
    driver.begin()
    driver.answer(driver.in_flight("probe", 2)[0])
    driver.kill(2)
    for rank in (0, 1):
        driver.answer(driver.in_flight("probe", rank)[0])
    assert not driver.flying
    driver.bring_back()
    driver.answer(driver.in_flight("probe", 2)[0])
    budgets = {c.rank: c.question.budget_bytes for c in driver.in_flight("probe") if isinstance(c, Call)}
    assert budgets == {0: 45, 1: 45, 2: 45}
    report = driver.finish()
    assert report.ready
    assert [c.tasks for c in report.classes] == [2]


def test_the_policy_counts_restarts() -> None:
    """A death is repaired up to the limit, an exception fails, a dead context counts as a death."""
    policy = FailurePolicy(max_restarts_per_rank=1)
    assert policy.on_death(0) is Decision.REPLACE
    assert policy.on_death(1) is Decision.FAIL
    assert policy.on_exception("LoadError", 0) is Decision.FAIL
    assert policy.on_exception("DeadContextError", 0) is Decision.REPLACE
    assert policy.on_exception("DeadContextError", 1) is Decision.FAIL


def driver_replace(driver: Driver) -> Replace:
    """The first replacement that was asked for."""
    return next(c for c in driver.log if isinstance(c, Replace))
