"""Judges on several devices: a tactic is published only if each of them serves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.reports.task_reports import task_reports
from ray_warmup.warmup.machine.state.confirmations import Confirmation
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.steps.judges import published
from ray_warmup.warmup.messages.answers import Guarded
from ray_warmup.warmup.messages.questions import Guard
from ray_warmup.warmup.messages.values import CrashRecord
from ray_warmup.warmup.tasks import Choice, Contender, GuardVerdict, Measurement, TacticId, TaskResult
from tests.sim.model_state import Process
from tests.unit.warmup.machine.driver import Driver

DEFAULT = Choice("First", -1)
FAST = Choice("Fast", 5)
RESULT = TaskResult("t", "op", 1, "tuned", FAST, "First", measurements=(Measurement("Fast", 5, 1.0, 0.0, 3),))


def verdict(ratio: float, decision: Any = "kept", rank: int = 0, note: str = "", task_id: str = "t") -> GuardVerdict:
    """One judge's verdict on `FAST`; any ratio is the winner's."""
    choice = FAST if decision in ("kept", "replaced") else DEFAULT
    served = ratio if choice == FAST else 1.0
    return GuardVerdict(task_id, decision, choice, served, ratio, 1e-3 * (rank + 1), 15 + rank, note, rank)


def test_a_confirmed_tactic_has_the_weakest_ratio() -> None:
    """Ratio, default's time and rounds are those of one judge, so that the times in the report are measured ones."""
    found = published([verdict(1.05), verdict(1.04, rank=1)], RESULT)
    assert (found.decision, found.choice, found.ratio, found.winner_ratio) == ("kept", FAST, 1.04, 1.04)
    assert (found.default_s, found.rounds, found.rank) == (2e-3, 16, 1)
    assert published([verdict(1.03), verdict(1.04, rank=1)], RESULT) == verdict(1.03)


def test_a_replaced_winner_keeps_its_own_ratio() -> None:
    """The further judge has not measured the winner, which gave way at the first one."""
    first = GuardVerdict("t", "replaced", FAST, 1.05, 0.9, 1e-3, 15, "the winner was slower")
    tuned = replace(RESULT, choice=OTHER)
    found = published([first, verdict(1.04, rank=1)], tuned)
    assert (found.decision, found.ratio, found.winner_ratio, found.note) == ("replaced", 1.04, 0.9, first.note)
    refused = published([first, verdict(0.98, "slower", rank=1)], tuned)
    assert (refused.decision, refused.ratio, refused.winner_ratio) == ("slower", 1.0, 0.9)


@pytest.mark.parametrize(
    ("last", "note"),
    [
        (
            verdict(0.981, "slower", 1, "not faster"),
            "1.050 times as fast as the default on rank 0, 0.981 times as fast on rank 1: not faster",
        ),
        (
            verdict(1.0, "crashed", 1, "it raised"),
            "1.050 times as fast as the default on rank 0, crashed on rank 1: it raised",
        ),
    ],
)
def test_a_refused_tactic_gives_way_to_the_default(last: GuardVerdict, note: str) -> None:
    """The note names both ranks and what each has found."""
    found = published([verdict(1.05), last], RESULT)
    assert (found.decision, found.choice, found.ratio, found.winner_ratio) == (
        last.decision,
        DEFAULT,
        1.0,
        last.winner_ratio,
    )
    assert found.note == note


class Court(Driver):
    """A sharded driver whose ranks judge by `ratios`: rank -> ratio, 1.1 where none is given."""

    def __init__(self, ratios: dict[int, float] | None = None, judges: int = 2, **values: Any) -> None:
        sections = {"guard": {"judges": judges}, **values.pop("sections", {})}
        super().__init__(**{"strategy": "sharded", "nodes": 1, "tasks": 4, **values}, sections=sections)
        self.ratios = ratios or {}

        def answer(process: Process, asked: Guard) -> Guarded:
            ratio = self.ratios.get(process.rank, 1.1)
            choice = asked.result.choice
            assert choice is not None, "a guarded task has a winner"
            if ratio > 1.03:
                return Guarded(GuardVerdict(asked.task_id, "kept", choice, ratio, ratio, 1e-3, 15))
            return Guarded(GuardVerdict(asked.task_id, "slower", DEFAULT, 1.0, ratio, 1e-3, 15, "not faster"))

        self.judge: Callable[[Process, Guard], Guarded] = answer
        guarded = self.world.answer

        def answered(process: Process, command: Any, *rest: Any) -> Any:
            value = guarded(process, command, *rest)
            return self.judge(process, command.question) if isinstance(value, Guarded) else value

        self.world.answer = answered  # type: ignore[method-assign]

    def guards(self) -> list[Call]:
        """Every question of a judge, in order."""
        return [call for call in self.log if isinstance(call, Call) and isinstance(call.question, Guard)]

    def until_second(self) -> Call:
        """Answer until a further judge is asked, and return its question."""
        self.until(Phase.GUARDING)
        while not (open_ := [c for c in self.in_flight("guard") if self.rank_class().confirmations.is_judging(c.rank)]):
            self.answer(self.in_flight("guard")[0])
        (call,) = open_[:1]
        assert isinstance(call, Call)
        return call


def test_a_tactic_is_published_if_two_devices_serve_it() -> None:
    """Each kept tactic is judged on the other GPU, with the short list reduced to it."""
    driver = Court({0: 1.10, 1: 1.05})
    report = driver.finish()
    judged: dict[str, list[Call]] = {}
    for call in driver.guards():
        judged.setdefault(str(call.task_id), []).append(call)
    assert [sorted(call.rank for call in calls) for calls in judged.values()] == [[0, 1]] * 4
    for first, second in judged.values():
        rows = second.question.result.measurements
        assert len(first.question.result.measurements) == 2
        assert [row.tactic for row in rows] == [first.question.result.choice.tactic]
    guard = report.classes[0].guard
    assert (guard.kept, guard.slower, guard.worst) == (4, 0, 1.05)


def test_no_tactic_has_a_second_verdict_against_it() -> None:
    """One GPU finds every tactic fast, the other one slow: the default is published, and counts add up."""
    driver = Court({0: 1.10, 1: 0.98})
    report = driver.finish()
    (group,) = report.classes
    assert {verdict.choice for verdict in driver.rank_class().verdicts.values()} == {DEFAULT}
    assert (group.guard.kept, group.guard.slower, group.guard.worst, group.dropped) == (0, 4, 1.0, 4)
    reasons = {row.reason for row in task_reports(driver.rank_class())}
    assert reasons <= {
        "not faster",
        "1.100 times as fast as the default on rank 0, 0.980 times as fast on rank 1: not faster",
    }
    assert len(reasons) == 2, "what rank 1 judged first needs no other rank"


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "leader"},
        {"per_node": 1},
        {"judges": 1},
    ],
    ids=["leader", "one rank", "one judge"],
)
def test_one_judge_asks_nobody_else(values: dict[str, Any]) -> None:
    """Where one device measures, or one judge is asked for, each task is judged once and no warning is given."""
    driver = Court(**values)
    assert driver.finish().ready
    assert len(driver.guards()) == 4
    assert driver.machine.run.warnings == []


def test_ranks_that_share_a_gpu_are_one_judge() -> None:
    """A second rank on the same GPU would only measure the same device again."""
    driver = Court()
    infos = driver.machine.run.ranks
    object.__setattr__(infos[1].info, "gpu_ids", infos[0].info.gpu_ids)
    assert driver.finish().ready
    assert len(driver.guards()) == 4


def test_as_many_judges_as_there_are() -> None:
    """Three ranks and eight judges: each tactic is judged by all three, once each; the first refusal ends it."""
    driver = Court({2: 1.01}, judges=8, per_node=3)
    assert driver.finish().ready
    asked = [(call.task_id, call.rank) for call in driver.guards()]
    assert len(asked) == len(set(asked))
    for task_id, found in driver.rank_class().verdicts.items():
        ranks = [rank for task, rank in asked if task == task_id]
        assert found.choice == DEFAULT
        assert ranks.index(2) == len(ranks) - 1, "nobody is asked after the refusal"


def test_another_rank_judges_when_a_judge_is_killed() -> None:
    """A kill without a trace says nothing against the tactic: once that is known, a further rank is asked."""
    driver = Court(per_node=3)
    lost = driver.until_second()
    driver.kill(lost.rank)
    held = [call for call in driver.in_flight("guard") if call.task_id == lost.task_id]
    assert held == [], "nobody else gets it before the successor has said what happened"
    report = driver.finish()
    assert report.ready
    assert report.classes[0].guard.kept == 4
    ranks = [call.rank for call in driver.guards() if call.task_id == lost.task_id]
    assert len(ranks) == 3


def test_a_judge_that_a_tactic_kills_quarantines_it() -> None:
    """As of any guarded task: the tactic is out for all, and the first verdict does not publish it."""
    driver = Court()
    call = driver.until_second()
    choice = call.question.result.choice
    driver.kill(call.rank)
    driver.bring_back()
    last = CrashRecord("guard", str(call.task_id), "op", choice.runner, json.dumps(choice.tactic), "Fatal Python error")
    driver.world.processes[call.rank].last_words = last
    report = driver.finish()
    assert report.ready
    found = driver.rank_class().verdicts[str(call.task_id)]
    assert (found.decision, found.choice) == ("crashed", DEFAULT)
    assert [row.tactic for row in driver.rank_class().quarantine] == [json.dumps(choice.tactic)]


def test_a_judge_that_dies_of_no_known_tactic_leaves_the_default() -> None:
    """Nothing names a tactic: the task keeps its default, and no further judge is asked."""
    driver = Court()
    call = driver.until_second()
    driver.kill(call.rank)
    driver.bring_back()
    last = CrashRecord("guard", str(call.task_id), "", "", "", "Fatal Python error")
    driver.world.processes[call.rank].last_words = last
    assert driver.finish().ready
    assert driver.rank_class().verdicts[str(call.task_id)].decision == "crashed"
    assert len([asked for asked in driver.guards() if asked.task_id == call.task_id]) == 2


def test_the_first_verdict_counts_when_no_other_device_is_left() -> None:
    """The only other node leaves the run while its rank judges: what the first rank has found is published."""
    driver = Court(nodes=2, per_node=1, sections={"cluster": {"on_node_loss": "shrink"}})
    call = driver.until_second()
    first = driver.rank_class().confirmations.of_task[str(call.task_id)].verdicts[0]
    driver.lose_node(f"node{call.rank}")
    report = driver.finish()
    assert report.ready
    assert driver.rank_class(first.rank).verdicts[str(call.task_id)] == first


def test_progress_counts_what_is_confirmed() -> None:
    """A task that waits for a further judge is not finished yet."""
    driver = Court(tasks=2).until(Phase.GUARDING)
    driver.answer(driver.in_flight("guard")[0])
    driver.answer(driver.in_flight("guard")[0])
    assert driver.rank_class().num_done == 0
    driver.finish()
    assert driver.rank_class().num_done == 2


OTHER = Choice("Other", 7)


def answer(ratios: dict[Choice, float], rank: int, winner: Choice = FAST) -> Guarded:
    """What a judge says that measured these ratios; the greatest is its choice."""
    choice = max(ratios, key=lambda one: ratios[one])
    decision = "kept" if choice == winner else "replaced"
    found = GuardVerdict("t", decision, choice, ratios[choice], ratios.get(winner, 0.0), 1e-3, 15, "", rank)
    return Guarded(found, tuple(Contender(one, ratio) for one, ratio in ratios.items()))


def test_the_second_judge_chooses_among_what_the_first_one_left() -> None:
    """Later ones only confirm its choice, so that no choice comes back; each contender has its least ratio."""
    found = Confirmation()
    found.answers.append(answer({FAST: 1.06, OTHER: 1.05}, rank=0))
    assert found.contenders == (Contender(FAST, 1.06), Contender(OTHER, 1.05))
    found.answers.append(answer({FAST: 1.04, OTHER: 1.05}, rank=1))
    assert found.contenders == (Contender(OTHER, 1.05),)
    found.answers.append(answer({OTHER: 1.045}, rank=0))
    assert found.contenders == (Contender(OTHER, 1.045),)


def test_a_tactic_that_only_the_second_judge_prefers_is_published_for_both() -> None:
    """The winner stands in the row with its own ratio, and the note says why it went."""
    verdicts = [
        answer({FAST: 1.06, OTHER: 1.055}, 0).verdict,
        answer({FAST: 1.04, OTHER: 1.05}, 1).verdict,
        answer({OTHER: 1.045}, 0, OTHER).verdict,
    ]
    found = published(verdicts, RESULT)
    assert (found.decision, found.choice, found.ratio, found.winner_ratio) == ("replaced", OTHER, 1.045, 1.04)
    assert found.note == "ranks 0 and 1 find different tactics best, and this one is faster on both"
    refused = published([*verdicts[:2], verdict(0.98, "slower", rank=0)], RESULT)
    assert (refused.decision, refused.choice, refused.winner_ratio) == ("slower", DEFAULT, 1.04)
    assert refused.note == "1.050 times as fast as the default on rank 1, 0.980 times as fast on rank 0"


def test_a_winner_that_comes_back_at_the_second_judge_has_its_own_ratio() -> None:
    """The first judge replaced the tuned winner, the others serve it: its row has one ratio, of the same tactic."""
    verdicts = [
        answer({FAST: 1.05, OTHER: 1.06}, 0).verdict,
        answer({FAST: 1.05, OTHER: 1.02}, 1, OTHER).verdict,
        answer({FAST: 1.05}, 0).verdict,
    ]
    found = published(verdicts, RESULT)
    assert (found.decision, found.choice, found.ratio, found.winner_ratio) == ("kept", FAST, 1.05, 1.05)


@pytest.mark.parametrize("first", [0, 1])
def test_it_does_not_matter_which_device_is_asked_first(first: int) -> None:
    """Two devices that rank two tactics differently: whoever begins, the one with the greater least ratio is served."""
    speeds = {0: (1.06, 1.045), 1: (1.035, 1.07)}
    tactics: list[Choice] = []
    driver = Court(tasks=1)

    def judge(process: Process, asked: Guard) -> Guarded:
        choices = [Choice(row.runner, row.tactic) for row in asked.result.measurements]
        tactics.extend(choices if not tactics else [])
        known = {contender.choice: contender.ratio for contender in asked.contenders}
        device = process.rank if first == 0 else 1 - process.rank
        ratios = {one: min(speeds[device][tactics.index(one)], known.get(one, 2.0)) for one in choices}
        assert asked.result.choice is not None, "a guarded task has a winner"
        found = answer(ratios, process.rank, asked.result.choice)
        return replace(found, verdict=replace(found.verdict, task_id=asked.task_id))

    driver.judge = judge
    assert driver.finish().ready
    (found,) = driver.rank_class().verdicts.values()
    assert (found.choice, found.ratio) == (tactics[1], 1.045)
    assert [call.rank for call in driver.guards()] == ([0, 1, 0] if first == 0 else [0, 1])


def test_a_contender_that_is_quarantined_while_it_waits_is_not_offered() -> None:
    """The second judge chooses among what nobody has quarantined since the first one answered."""
    driver = Court(tasks=1)
    kept: list[Guarded] = []

    def judge(process: Process, asked: Guard) -> Guarded:
        choice = asked.result.choice
        assert choice is not None, "a guarded task has a winner"
        found = GuardVerdict(asked.task_id, "kept", choice, 1.06, 1.06, 1e-3, 15)
        kept.append(Guarded(found, (Contender(choice, 1.06), Contender(OTHER, 1.05))))
        return kept[-1]

    driver.judge = judge
    driver.until(Phase.GUARDING)
    rank_class, op = driver.rank_class(), next(iter(driver.rank_class().results.values())).op
    rank_class.quarantine += (TacticId(op, OTHER.runner, json.dumps(OTHER.tactic)),)
    assert driver.finish().ready
    _, second = driver.guards()
    assert [row.choice for row in second.question.contenders] == [kept[0].verdict.choice]
