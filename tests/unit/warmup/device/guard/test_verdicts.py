"""The guard's decisions on scripted laps: what is kept, what gives way, and that doubt goes to the default."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from ray_warmup.warmup.device.guard.contest import Pace
from ray_warmup.warmup.device.guard.guard import entrants_of, judge_tactics, places, ranked
from ray_warmup.warmup.device.guard.race import MIN_ROUNDS, Race
from ray_warmup.warmup.device.guard.selection import Rule
from ray_warmup.warmup.tasks import Choice, GuardVerdict, Measurement, TaskResult
from tests.scripted_contest import ScriptedContest
from tests.tuner_options import tuner_options

DEFAULT = Choice("First", -1)
A, B, C = Choice("First", 1), Choice("First", 2), Choice("Second", (7, ((12, 3),)))
OPTIONS = tuner_options(shortlist=8, guard_rounds=7, guard_margin=0.02, tie_band=0.01)


def result(winner: Choice | None, *listed: Choice) -> TaskResult:
    """A tuning result with this winner and short list."""
    measurements = tuple(Measurement(c.runner, c.tactic, 1e-5, 0.0, 1) for c in listed)
    return TaskResult("t@8", "op", 8, "tuned", winner, "First", measurements=measurements, rank=3)


def verdict(lap_us: dict[Choice, float], winner: Choice, *listed: Choice, **script: object) -> GuardVerdict:
    """The guard's decision on constant laps."""
    laps = {choice: [us * 1e-6] for choice, us in lap_us.items()}
    return judge_tactics(ScriptedContest(laps, **script), result(winner, *listed), OPTIONS).verdict  # type: ignore[arg-type]


def test_a_winner_beyond_the_margin_is_kept() -> None:
    """Ten percent faster and right: kept, with both ratios, the default's time and the rank."""
    found = verdict({DEFAULT: 11, A: 10}, A, A)
    assert (found.decision, found.choice, found.note) == ("kept", A, "")
    assert (found.ratio, found.winner_ratio, found.default_s, found.rank) == pytest.approx((1.1, 1.1, 11e-6, 3))


def test_a_winner_below_the_margin_is_slower() -> None:
    """One percent faster is not worth an entry: the explicit default, with the winner's own ratio kept."""
    found = verdict({DEFAULT: 10.1, A: 10}, A, A)
    assert (found.decision, found.choice, found.ratio) == ("slower", DEFAULT, 1.0)
    assert found.winner_ratio == pytest.approx(1.01)


def test_the_next_best_replaces_a_slow_winner() -> None:
    """The tuner's winner is slower than the default, another of the short list is faster."""
    found = verdict({DEFAULT: 10, A: 12, B: 9}, A, A, B)
    assert (found.decision, found.choice) == ("replaced", B)


@pytest.mark.parametrize("fate", ["wrong", "crashed"])
def test_a_flawed_winner_goes_whatever_its_time(fate: str) -> None:
    """A wrong or crashing winner gives way, and the reason is told."""
    flaws = {A: (fate, "planted")}
    alone = verdict({DEFAULT: 10, A: 1}, A, A, flaws=flaws)
    assert (alone.decision, alone.choice, alone.note) == (fate, DEFAULT, "planted")
    assert alone.winner_ratio == 0.0
    with_next = verdict({DEFAULT: 10, A: 1, B: 9}, A, A, B, flaws=flaws)
    assert (with_next.decision, with_next.choice) == ("replaced", B)
    assert fate in with_next.note


def test_only_a_pick_is_looked_at_as_served_and_the_next_one_if_it_falls() -> None:
    """A pick that is wrong when it is served gives way to the next, which is looked at, too; no other one is."""
    contest = ScriptedContest({DEFAULT: [10.0], A: [7.0], B: [8.0], C: [9.0]})
    seen: list[Choice] = []

    def served_flaw(choice: Choice) -> tuple[str, str] | None:
        seen.append(choice)
        return ("wrong", "planted") if choice == A else None

    found = judge_tactics(contest, result(A, A, B, C), OPTIONS, served_flaw).verdict
    assert (found.decision, found.choice, seen) == ("replaced", B, [A, B])
    assert "wrong" in found.note
    alone = judge_tactics(contest, result(A, A), OPTIONS, served_flaw).verdict
    assert (alone.decision, alone.choice, alone.note) == ("wrong", DEFAULT, "planted")
    assert alone.winner_ratio == pytest.approx(10 / 7)


def test_where_a_pick_falls_those_without_a_place_race_after_all() -> None:
    """With room for one at a time, a winner that is wrong when it is served still has a successor."""
    slow = ScriptedContest({DEFAULT: [10.0], A: [7.0], B: [8.0]}, pace=Pace(0.5, 1.0, 0, float("inf")))
    found = judge_tactics(
        slow, result(A, A, B), OPTIONS, lambda choice: ("wrong", "planted") if choice == A else None
    ).verdict
    assert (found.decision, found.choice) == ("replaced", B)


def test_a_winner_that_cannot_be_captured_is_crashed() -> None:
    """An error while laps are set up counts as a crash of that tactic alone."""
    found = verdict({DEFAULT: 10, B: 10}, A, A, B)
    assert (found.decision, found.choice) == ("crashed", DEFAULT)
    assert "not capturable" in found.note


def test_a_default_winner_stays_default() -> None:
    """The default had won and nothing better is found."""
    found = verdict({DEFAULT: 10, A: 11}, DEFAULT, A)
    assert (found.decision, found.choice, found.winner_ratio) == ("default", DEFAULT, 1.0)


def test_a_better_one_is_found_although_the_default_had_won() -> None:
    """The tuner's choice has no say beyond naming the winner."""
    found = verdict({DEFAULT: 10, A: 8}, DEFAULT, A)
    assert (found.decision, found.choice) == ("replaced", A)


def test_equal_candidates_fall_to_the_fixed_order_whoever_won() -> None:
    """Within the tie band runner name and tactic decide, so two tunes publish the same entry."""
    laps = {DEFAULT: 10.0, A: 8.0, B: 7.95, C: 8.01}
    assert {verdict(laps, winner, *listed).choice for winner, listed in ((A, (A, B, C)), (C, (C, B, A)))} == {A}


def test_a_candidate_outside_the_tie_band_wins_by_speed() -> None:
    """Two percent faster than an earlier one in the order is not a tie."""
    assert verdict({DEFAULT: 10, A: 8.0, B: 7.8}, A, A, B).choice == B


def test_noise_around_the_margin_leaves_the_default() -> None:
    """A candidate whose rounds scatter from slower to faster is not proven, and the default stays."""
    noise = random.Random(1)
    laps = {DEFAULT: [10.0], A: [9.6 * noise.uniform(0.5, 1.5) for _ in range(101)]}
    found = judge_tactics(ScriptedContest(laps), result(A, A), OPTIONS).verdict
    assert (found.decision, found.choice) == ("slower", DEFAULT)


def test_doubt_takes_more_rounds_and_certainty_does_not() -> None:
    """A clear case ends with the first batch; one at the margin's edge is run to the limit."""
    clear = judge_tactics(ScriptedContest({DEFAULT: [10.0], A: [8.0]}), result(A, A), OPTIONS).verdict
    edge = judge_tactics(ScriptedContest({DEFAULT: [10.0], A: [9.7, 9.9, 9.8]}), result(A, A), OPTIONS).verdict
    assert clear.rounds == 7
    assert edge.rounds == 35


def test_hopeless_candidates_leave_after_the_screening() -> None:
    """A candidate at half the speed is not timed to the end."""
    options = tuner_options(shortlist=8, guard_rounds=20, tie_band=0.01)
    contest = ScriptedContest({DEFAULT: [10.0], A: [8.0], B: [20.0]})
    found = judge_tactics(contest, result(A, A, B), options).verdict
    assert found.choice == A
    assert contest.laps < 4 * 22


def test_a_pick_that_loses_on_one_copy_gives_way() -> None:
    """Fast on average but five percent slower on one copy: the next best is published, not this one."""
    script = {"layout_s": {(A, 1): 10.5e-6}, "copies": 2}
    found = verdict({DEFAULT: 10, A: 8, B: 9}, A, A, B, **script)
    assert (found.decision, found.choice) == ("replaced", B)
    held = verdict({DEFAULT: 10, A: 8, B: 9}, A, A, B, copies=2)
    assert held.choice == A
    alone = verdict({DEFAULT: 10, A: 8}, A, A, **script)
    assert (alone.decision, alone.choice) == ("slower", DEFAULT)
    assert alone.note == "tactic 1 is 1.250 times as fast as the default, 0.952 times at some place in memory"


def test_the_clock_ends_a_race_in_doubt() -> None:
    """Past the time budget no further round is begun, once there are seven."""
    ticks = itertools.count(0.0, 0.5)
    contest = ScriptedContest({DEFAULT: [10.0], A: [9.7, 9.9, 9.8]}, pace=Pace(0.1, 2.0, 0, float("inf")))
    race = Race(contest, DEFAULT, Rule(0.02, 0.01), rounds=20, clock=lambda: next(ticks))
    assert race.enter(A) is None
    race.run()
    assert MIN_ROUNDS < race.rounds < 20
    late = Race(contest, DEFAULT, Rule(0.02, 0.01), rounds=20, clock=lambda: 100.0 * next(ticks))
    assert late.enter(A) is None
    late.run()
    assert late.rounds == MIN_ROUNDS


@pytest.mark.parametrize("rounds", [3, 7])
def test_seven_rounds_are_run_whatever_is_asked_and_whatever_they_take(rounds: int) -> None:
    """Fewer rounds prove nothing, so slow laps leave candidates out and never rounds."""
    laps = {DEFAULT: [10.0], A: [8.0], B: [7.0], C: [6.0]}
    contest = ScriptedContest(laps, pace=Pace(0.5, 1.0, 0, float("inf")))
    found = judge_tactics(
        contest, result(A, A, B, C), tuner_options(shortlist=8, guard_rounds=rounds, guard_margin=0.02, tie_band=0.01)
    ).verdict
    assert (found.rounds, found.choice) == (7, A)
    assert set(contest.timed_choices) == {DEFAULT, A}


def test_slow_laps_time_the_default_once_a_round_and_let_the_hopeless_go_early() -> None:
    """Where one candidate is too slow already, a round is two laps, and three rounds show that it is slower."""
    slow = Pace(0.5, 1.0, 0, float("inf"))
    near = ScriptedContest({DEFAULT: [10.0], A: [9.0]}, pace=slow)
    assert (judge_tactics(near, result(A, A), OPTIONS).verdict.rounds, near.laps) == (7, 14)
    far = ScriptedContest({DEFAULT: [10.0], A: [20.0]}, pace=slow)
    assert (judge_tactics(far, result(A, A), OPTIONS).verdict.decision, far.laps) == ("slower", 6)


def test_a_flawed_candidate_takes_nobodys_place() -> None:
    """Where time is short the place of a wrong winner goes to the next best."""
    contest = ScriptedContest(
        {DEFAULT: [10.0], B: [8.0]}, flaws={A: ("wrong", "planted")}, pace=Pace(0.5, 1.0, 0, float("inf"))
    )
    assert judge_tactics(contest, result(A, A, B), OPTIONS).verdict.choice == B


def test_slow_laps_leave_time_for_the_fastest_alone() -> None:
    """With laps of a third of the budget only the tuned winner races; with fast ones all that are near it do."""
    listed = tuple(
        Measurement(c.runner, c.tactic, s, 0.0, 1) for c, s in ((B, 1.0), (A, 1.1), (C, 2.0), (DEFAULT, 1.2))
    )
    tuned = replace(result(B), measurements=listed)
    assert [places(Pace(lap_s, 2.0, 0, 1.3)) for lap_s in (0.1, 0.036, 0.02, 0.006)] == [1, 5, 12, 45]
    assert ranked((A, B, C), tuned, Pace(0.001, 0.3, 0, 1.3)) == (B, A)
    assert ranked((A, B, C), tuned, Pace(0.001, 0.3, 0, float("inf"))) == (B, A, C)


def test_the_short_list_is_counted_without_the_default() -> None:
    """The default takes no place in the short list, and the winner is in it even from outside."""
    listed = entrants_of(result(C, DEFAULT, B, A), tuner_options(shortlist=1))
    assert listed == (B, C)


def test_nothing_to_race_ends_at_once() -> None:
    """Without a candidate that survives, the default stays and no lap is run."""
    contest = ScriptedContest({DEFAULT: [10.0]}, flaws={A: ("wrong", "planted")})
    found = judge_tactics(contest, result(A, A), OPTIONS).verdict
    assert (found.decision, found.rounds, contest.laps, found.default_s) == ("wrong", 0, 0, 0.0)
