"""A process that does not beat: named once, replaced within its phase, blamed for nothing; and what is said of many."""

from __future__ import annotations

import pytest

from ray_warmup.configs import ConfigError, parse_config
from ray_warmup.configs.schema import TimeoutsSection
from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.failures.watchdog import beat_interval
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.messages.values import CrashRecord
from ray_warmup.warmup.remedies import parts
from tests.unit.warmup.machine.driver import Driver

PHASES = (Phase.PROBING, Phase.LOOKUP, Phase.COMPILING, Phase.TUNING, Phase.GUARDING, Phase.PUSHING)
LATER = (Phase.INSTALLING, Phase.LOADING, Phase.REPLAYING)


def freeze_and_return(driver: Driver, rank: int, words: CrashRecord | None = None) -> None:
    """The rank stands still until it is given up; a fresh process stands in for it."""
    driver.tick(31.0, silent=driver.quiet(rank))
    assert [(command.rank, command.is_hung) for command in driver.replacing] == [(rank, True)]
    driver.flying = {i: c for i, c in driver.flying.items() if c.rank != rank}
    if words is not None:
        driver.changes["probe", rank] = {"last_words": words}
    driver.finish_replacing()


@pytest.mark.parametrize("phase", [*PHASES, *LATER])
def test_at_the_default_timeouts_a_frozen_rank_is_replaced_in_every_phase(phase: Phase) -> None:
    """Leader, writer or nobody's: the run goes on within the phase and is ready."""
    driver = Driver().until(phase)
    rank = next(iter(driver.flying.values())).rank
    freeze_and_return(driver, rank)
    assert driver.finish().ready
    (text,) = [text for text in driver.machine.run.warnings if "given up after 30 s (timeouts.silence)" in text]
    assert text.startswith(f"rank {rank} on node")


def test_the_others_go_on_when_the_leader_freezes_in_a_task() -> None:
    """Not after `timeouts.task` (300 s): the next rank has the lead after the silence, with what was measured."""
    driver = Driver(tasks=4).until(Phase.TUNING)
    driver.answer(driver.in_flight("tune")[0])
    driver.tick(31.0, silent=driver.quiet(0))
    assert driver.rank_class().leader == 1
    assert [call.rank for call in driver.in_flight("tune")][-1] == 1
    assert driver.machine.phase is Phase.TUNING


def test_a_silent_rank_is_named_once_and_its_return_once() -> None:
    """After two intervals who, for how long, the setting and what it was at; relapses are not told again."""
    driver = Driver().until(Phase.TUNING)
    task = str(driver.in_flight("tune")[0].task_id)  # type: ignore[union-attr]
    beat = Status("tune", task, "CudnnFp8GemmRunner", "7", since=driver.now, heard=driver.now)
    driver.tick(4.0, silent={0: beat})
    assert driver.machine.run.warnings == []
    for _ in range(2):
        driver.tick(7.0, silent={0: beat})
        driver.tick(20.0)
        beat = Status("tune", task, since=driver.now, heard=driver.now)
    silent, back = driver.machine.run.warnings
    name = "rank 0 on node node0 (10.0.0.0, GPU 0)"
    assert silent.startswith(
        f"{name} [GPU] is silent in phase TUNING: no heartbeat for 5.0 s (one is expected every 2 s"
    )
    assert parts(silent)[0].endswith(f"last heard: {task}, runner CudnnFp8GemmRunner, tactic 7; asked for {task}")
    assert back.startswith(f"{name} is back in phase TUNING after 12")
    assert not driver.replacing


def test_many_silent_ranks_are_one_sentence() -> None:
    """Forty ranks that miss their beats, at different moments: the first at once, the others together."""
    driver = Driver(nodes=5, per_node=8).until(Phase.LOADING)
    driver.tick(6.0, silent=driver.quiet(0))
    driver.tick(6.0, silent=driver.quiet(*range(1, 40)))
    driver.tick(15.0)
    said = driver.machine.run.warnings
    assert len(said) <= 3
    assert sum(map(len, said)) < 2500
    assert not driver.replacing


def test_a_rank_that_was_silent_unsaid_is_not_said_to_be_back() -> None:
    """Back before there was time to say anything: silence about it."""
    driver = Driver().until(Phase.LOADING)
    driver.tick(6.0, silent=driver.quiet(0))
    driver.tick(1.0)
    driver.tick(6.0, silent=driver.quiet(1))
    driver.tick(15.0)
    assert not any("rank 1 " in text for text in driver.machine.run.warnings)


def bad_words(method: str, task_id: str | None, tactic: str = "7") -> CrashRecord:
    """A tactic was running."""
    return CrashRecord(method, task_id or "", "bf16_gemm", "BadRunner", tactic)


@pytest.mark.parametrize("phase", [Phase.TUNING, Phase.GUARDING])
def test_a_freeze_bans_no_tactic(phase: Phase) -> None:
    """Its record names what was running; the process stood still, so nothing is said against it. It is done again."""
    driver = Driver(nodes=1, per_node=1, tasks=1).until(phase)
    call = next(iter(driver.flying.values()))
    assert isinstance(call, Call)
    freeze_and_return(driver, 0, bad_words(call.name, call.task_id))
    assert driver.rank_class().quarantine == ()
    assert [c.task_id for c in driver.in_flight(call.name)] == [call.task_id]  # type: ignore[union-attr]
    assert driver.finish().ready
    assert all(verdict.decision != "crashed" for verdict in driver.rank_class().verdicts.values())


def test_the_same_tactic_in_two_frozen_processes_is_banned() -> None:
    """Native code that holds the interpreter stops the heartbeat, too: twice in one tactic is no chance."""
    driver = Driver(nodes=1, per_node=1, tasks=1).until(Phase.TUNING)
    for _ in range(2):
        task = driver.in_flight("tune")[0].task_id  # type: ignore[union-attr]
        freeze_and_return(driver, 0, bad_words("tune", task))
    assert [entry.runner for entry in driver.rank_class().quarantine] == ["BadRunner"]
    assert driver.finish().ready


def test_two_freezes_in_one_task_at_different_tactics_ban_nothing() -> None:
    """A paused machine hits any tactic."""
    driver = Driver(nodes=1, per_node=1, tasks=1).until(Phase.TUNING)
    for tactic in ("7", "8"):
        task = driver.in_flight("tune")[0].task_id  # type: ignore[union-attr]
        freeze_and_return(driver, 0, bad_words("tune", task, tactic))
    assert driver.rank_class().quarantine == ()
    assert driver.finish().ready


def test_a_hang_does_not_ban_the_default_tactic() -> None:
    """It lived and did not end: once it is done again, the second time it is the tactic's doing."""
    driver = Driver(nodes=1, per_node=1, tasks=1, sections={"timeouts": {"task": 30}}).until(Phase.TUNING)
    for expected in ([], ["-1"]):
        task = str(driver.in_flight("tune")[0].task_id)  # type: ignore[union-attr]
        driver.changes["probe", 0] = {"last_words": bad_words("tune", task, "-1")}
        driver.tick(31.0, {0: Status("tune", task, since=driver.now)})
        driver.flying.clear()
        driver.finish_replacing()
        assert [entry.tactic for entry in driver.rank_class().quarantine] == expected
    assert driver.finish().ready


def test_time_in_which_a_process_stood_still_is_no_time_of_its_task() -> None:
    """Twenty seconds frozen, thirty allowed: after it is back the task still has what was left of its time."""
    driver = Driver(nodes=1, per_node=1, tasks=1, sections={"timeouts": {"task": 30, "silence": 25}}).until(
        Phase.TUNING
    )
    status = Status("tune", str(driver.in_flight("tune")[0].task_id), since=driver.now)  # type: ignore[union-attr]
    driver.tick(10.0, {0: status})
    driver.tick(20.0, silent=driver.quiet(0))
    driver.tick(15.0, {0: status})
    assert not driver.replacing
    driver.tick(10.0, {0: status})
    assert [command.rank for command in driver.replacing] == [0]
    assert "of 30 s allowed (timeouts.task)" in " ".join(driver.machine.run.warnings)


def test_a_coordinator_that_stood_still_blames_nobody() -> None:
    """It was stopped for a minute, so it heard nobody: the silence counts from its return."""
    driver = Driver().until(Phase.LOADING)
    quiet = driver.quiet(*range(4))
    driver.now += 60.0
    driver.machine.was_deaf(driver.now)
    driver.tick(3.0, silent=quiet)
    assert driver.machine.run.warnings == []
    assert not driver.replacing


@pytest.mark.parametrize(
    ("given", "silence"),
    [
        ({}, 30.0),
        ({"lookup": 10}, 5.0),
        ({"task": 8}, 4.0),
        ({"silence": 45, "lookup": 50}, 45.0),
        ({"placing": 5}, 30.0),
    ],
)
def test_silence_lies_below_every_deadline(given: dict[str, float], silence: float) -> None:
    """The default follows shorter deadlines; and so it stays when a config travels to a rank."""
    config = parse_config({"model": {"name": "llama-3.1-8b"}, "cluster": {"world_size": 8}, "timeouts": given})
    assert config.timeouts.silence == silence
    assert parse_config(config.model_dump(mode="json")).timeouts == config.timeouts


@pytest.mark.parametrize("given", [{"silence": 60}, {"silence": 20, "installing": 20}, {"silence": 200}])
def test_a_silence_beyond_a_deadline_is_refused(given: dict[str, float]) -> None:
    """By field, value, rule and the deadline that is too short for it."""
    with pytest.raises(ConfigError, match=r"silence: \d+: must be less than every phase's deadline, the shortest is"):
        parse_config({"model": {"name": "llama-3.1-8b"}, "cluster": {"world_size": 8}, "timeouts": given})


@pytest.mark.parametrize(("ranks", "seconds"), [(1, 2.0), (400, 2.0), (1000, 5.0), (4000, 10.0), (40_000, 10.0)])
def test_many_ranks_are_asked_less_often(ranks: int, seconds: float) -> None:
    """One loop asks at most some hundred times a second, and each rank three times before it is given up."""
    assert beat_interval(TimeoutsSection(), ranks) == seconds
