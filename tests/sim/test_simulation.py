"""A fixed share of the random schedules, and for every property a planted defect that it must notice."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.warmup.machine import machine
from ray_warmup.warmup.machine.commands import Replace
from ray_warmup.warmup.machine.failures.policy import Decision, NodePolicy
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.phases import compiling, delivery, probing, tuning
from ray_warmup.warmup.machine.state.modules import ModuleState
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.pool import TaskPool
from ray_warmup.warmup.machine.state.run import ClassState
from ray_warmup.warmup.machine.steps import judges
from ray_warmup.warmup.messages.answers import Confirmed, Loaded
from ray_warmup.warmup.messages.questions import FindMarkers, Load
from tests.sim.model_state import Process
from tests.sim.schedule import FULL, draw
from tests.sim.simulation import simulate
from tests.sim.world import World

BLOCK = 250


@pytest.mark.parametrize("first", range(0, 1500, BLOCK))
def test_every_property_holds_in_mixed_schedules(first: int) -> None:
    """No schedule of 1 to 64 ranks breaks a property."""
    outcomes = [simulate(seed) for seed in range(first, first + BLOCK)]
    assert [(o.seed, o.violations) for o in outcomes if o.violations] == []
    assert {o.phase for o in outcomes} == {Phase.READY, Phase.FAILED}


@pytest.mark.parametrize("seed", [4_725, 8_867, 19_876, 23_781, 81_654, 422_826])
def test_what_once_broke_a_property_holds(seed: int) -> None:
    """Schedules in which long runs found a defect: dead contexts on the way of modules, a source that left the run."""
    assert simulate(seed).violations == ()


@pytest.mark.parametrize("seeds", [3, pytest.param(10, marks=pytest.mark.long)])
def test_every_property_holds_with_1000_ranks(seeds: int) -> None:
    """No schedule of 1,000 ranks breaks a property, and some of them lose ranks and are ready all the same."""
    outcomes = [simulate(seed, FULL) for seed in range(seeds)]
    assert [(o.seed, o.violations) for o in outcomes if o.violations] == []
    assert any(o.phase is Phase.READY and o.deaths for o in outcomes)


def test_a_seed_replays() -> None:
    """The same seed gives the same schedule, the same end at the same simulated time and as many events."""
    assert [simulate(seed) for seed in range(20)] == [simulate(seed) for seed in range(20)]
    assert draw(3) != draw(4)


def noticed(text: str, seeds: int = 600) -> bool:
    """Whether any schedule breaks a property whose words contain `text`."""
    return any(text in violation for seed in range(seeds) for violation in simulate(seed).violations)


def test_a_lost_task_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that forgets what a dead rank had in flight never ends in time, or fails for no reason."""
    monkeypatch.setattr(TaskPool, "lose", lambda self, rank, suspect=None: ())
    assert noticed("FAILED without a reason")


def test_a_task_dealt_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase that starts over when a replacement joins measures finished tasks again."""

    def start_over(self: tuning.PoolPhase, run: Any, rank: int) -> Any:
        rank_class = run.class_of(rank)
        rank_class.pool = TaskPool(rank_class.tasks)
        return self._feed_all(run, rank_class)

    monkeypatch.setattr(tuning.PoolPhase, "joined", start_over)
    assert noticed("is finished and dealt again")


def test_two_builders_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lets every node build what it lacks is found out."""
    monkeypatch.setattr(compiling, "keeps_files", lambda run: False)
    assert noticed("all compiled for class")


def test_a_module_that_is_built_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that forgets, when the run goes back, what a lost node had handed over builds that again."""
    begin_again = ModuleState.begin_again

    def forget(self: ModuleState) -> None:
        begin_again(self)
        self.header, self.held = None, frozenset()

    monkeypatch.setattr(ModuleState, "begin_again", forget)
    assert noticed("which were handed over", seeds=3000)


def test_a_second_builder_on_a_node_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that goes on in one process is not begun again by its neighbour."""
    monkeypatch.setattr(compiling, "_builders", lambda run, rank_class: set())
    assert noticed("there")


def test_tuning_without_modules_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that was not told of the modules on its node would compile while it measures."""
    monkeypatch.setattr(compiling, "_activate", lambda run, rank_class: [])
    assert noticed("it has not compiled")


def test_two_leaders_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategy `leader` with every live rank at work is two leaders at once."""
    monkeypatch.setattr(tuning.PoolPhase, "works", lambda self, run, rank_class, rank: run.ranks[rank].is_alive)
    assert noticed("at once")


def test_a_poor_artifact_that_is_kept_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that never adds to a found artifact lets every node of every later run compile for itself."""
    monkeypatch.setattr(ClassState, "needs_renewal", False)
    assert noticed("keeps less than was compiled")


def test_two_digests_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that keep the table of their own node and say otherwise, twice, do not pass as one class."""

    def lie(self: World, process: Process, asked: Load, rank_class: Any) -> Loaded:
        found = self.directory(process.rank).tables.get(self._key(process))
        process.loaded, process.has_replayed = found.digest if found else asked.digest, False
        return Loaded(asked.digest, 1, 1, ())

    monkeypatch.setattr(World, "_load", lie)
    monkeypatch.setattr(
        World, "_confirm", lambda self, process, rank_class: Confirmed(rank_class.digest, rank_class.digest)
    )
    monkeypatch.setattr(delivery, "writers_to_update", lambda rank_class: [])
    assert noticed("READY with 2 digests")


def test_a_missing_deadline_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that looks at no clock has runs without an end."""
    monkeypatch.setattr(WarmupMachine, "tick", lambda self, now, statuses: [])
    assert noticed("no end within all deadlines")


def test_a_silent_task_without_deadline_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hung task that only the deadline of the whole phase ends is named."""
    monkeypatch.setattr(machine, "late_ranks", lambda run, statuses, now: ())
    assert noticed("only the phase's deadline saw it")


def test_an_echo_taken_for_a_death_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot tell an old process's death from a new one's replaces processes that live."""
    died = WarmupMachine.died
    monkeypatch.setattr(
        WarmupMachine, "died", lambda self, rank, reason, now, process=None: died(self, rank, reason, now)
    )
    assert noticed("nothing said that it is dead")


def test_an_unreplayed_rank_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replacement that loads late in the run and is not replayed is not ready."""
    returned = delivery.Replaying.returned

    def skip(self: delivery.Replaying, run: Any, call: Any, value: Any) -> Any:
        run.ranks[call.rank].is_confirmed = True
        return [] if isinstance(value, Loaded) else returned(self, run, call, value)

    monkeypatch.setattr(delivery.Replaying, "returned", skip)
    assert noticed("has not replayed")


def test_a_lost_node_that_is_ignored_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not hear of a lost node is ready with ranks that are nowhere."""
    monkeypatch.setattr(WarmupMachine, "node_lost", lambda self, node_id, now: [])
    assert noticed("on the lost node")


def test_an_unwanted_shrink_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on without ranks although its policy does not say so is found out."""
    monkeypatch.setattr(NodePolicy, "on_loss", lambda self, moves, ranks_left: Decision.SHRINK)
    assert noticed("which nobody allowed")


def test_a_move_without_going_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on where it was asks ranks on other nodes for tasks whose modules they do not have."""

    def stay(self: WarmupMachine, now: float) -> Any:
        self._going_back.is_due = False
        return []

    monkeypatch.setattr(WarmupMachine, "_rewind", stay)
    assert noticed("it has not compiled")


def test_an_unwarmed_rank_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that replays and is not asked for its engine warmups is not ready."""
    monkeypatch.setattr(delivery, "warm", lambda run, rank: run.call(rank, FindMarkers(())))
    assert noticed("has not warmed")


def test_a_call_to_a_dead_rank_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that asks a lost rank once more, before its replacement stands, is found out."""
    described = lambda run: all(state.description for state in run.ranks.values())  # noqa: E731
    monkeypatch.setattr(probing, "everyone_described", described)
    assert noticed("a call to rank")


def test_a_quarantined_tactic_that_is_served_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with a tactic that killed a process after some task had chosen it is found out."""
    monkeypatch.setattr(delivery, "drop_quarantined", lambda rank_class: None)
    assert noticed("a quarantined tactic is served")


def test_a_refused_tactic_that_is_published_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that believes the first judge, whatever the next one says, is found out."""
    monkeypatch.setattr(judges, "published", lambda verdicts, result: verdicts[0])
    assert noticed("has a verdict against its tactic")


def test_a_lone_judge_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that asks no further device although there is one is found out."""
    monkeypatch.setattr(judges, "_is_open", lambda run, rank_class, found: False)
    assert noticed("devices only")


def test_a_call_that_cannot_be_answered_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A found table asked of a rank beside another directory is a mistake of the machine."""
    monkeypatch.setattr(delivery, "ranks_in_source_directory", lambda run, rank_class: run.alive(rank_class)[::-1])
    assert noticed("which it cannot do")


def test_commands_after_the_end_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that replaces a rank, be it one alone, although the run is over is found out."""
    died, replaced = WarmupMachine.died, set[int]()

    def restless(self: WarmupMachine, rank: int, reason: str, now: float, process: int | None = None) -> Any:
        if not self.is_over or replaced:
            return died(self, rank, reason, now, process)
        replaced.add(rank)
        return [Replace(rank, reason)]

    monkeypatch.setattr(WarmupMachine, "died", restless)
    assert noticed("after the end")


def test_a_rank_that_is_not_named_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure whose words name no rank that was at fault is found out."""
    fail = WarmupMachine._fail
    monkeypatch.setattr(WarmupMachine, "_fail", lambda self, text, now: fail(self, "something went wrong", now))
    assert noticed("FAILED names none of ranks")
