"""Consensus: k ranks measure the same short list of every task, and the median decides.

For models whose ranks see different load, where one rank's favourite is another's slow tactic. Comes after
the sharded part of TUNING, which makes the short lists; one pool per voter, so that each votes on every task.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from ray_warmup.warmup.choosing import choose
from ray_warmup.warmup.machine.state.pool import TaskPool
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.messages.answers import Voted
from ray_warmup.warmup.messages.questions import Vote
from ray_warmup.warmup.tasks import Choice, Measurement, TaskResult


def open_ballots(run: Run, rank_class: ClassState) -> Commands:
    """One pool of every tuned task for each of the first k live ranks, the leader among them."""
    tasks = rank_class.tuned_tasks()
    others = [rank for rank in run.alive(rank_class) if rank != rank_class.leader]
    voters = [rank_class.leader, *others][: run.config.autotune.consensus_ranks]
    if len(voters) < run.config.autotune.consensus_ranks:
        run.warn(
            f"consensus among {len(voters)} ranks: the class of rank {rank_class.leader} has no more "
            f"(autotune.consensus_ranks is {run.config.autotune.consensus_ranks})",
            f"set autotune.consensus_ranks to {len(voters)}, or give the class more ranks",
        )
    rank_class.ballots = {rank: TaskPool(tasks) for rank in voters}
    return _vote_all(run, rank_class)


def vote(run: Run, rank_class: ClassState, rank: int) -> Commands:
    """Deal the next task to a voter, or none if it has voted on all or is not a voter."""
    ballot = rank_class.ballots.get(rank)
    if ballot is None or not run.ranks[rank].is_alive or ballot.num_running(rank):
        return []
    task_id = ballot.deal(rank)
    if task_id is None:
        return []
    shortlist = tuple(Choice(row.runner, row.tactic) for row in rank_class.results[task_id].measurements)
    return [run.call(rank, Vote(task_id, shortlist, rank_class.quarantine))]


def voted(run: Run, rank_class: ClassState, rank: int, value: Voted) -> Commands:
    """Keep a vote.

    After the last one, settle every task.
    """
    task_id = value.result.task_id
    if rank_class.ballots[rank].finish(task_id):
        rank_class.votes.setdefault(task_id, {})[rank] = value.result
    if is_settled(rank_class):
        return settle_all(run, rank_class)
    return vote(run, rank_class, rank)


def resume(run: Run, rank_class: ClassState) -> Commands:
    """The phase begins once more, perhaps with fewer voters: the votes that are missing, or the outcome."""
    if is_settled(rank_class):
        return settle_all(run, rank_class)
    return _vote_all(run, rank_class)


def _vote_all(run: Run, rank_class: ClassState) -> Commands:
    commands: Commands = []
    for rank in rank_class.ballots:
        commands += vote(run, rank_class, rank)
    return commands


def settle_all(run: Run, rank_class: ClassState) -> Commands:
    """Every vote is in."""
    for task_id, votes in rank_class.votes.items():
        # By rank and not by arrival, so that equal votes give equal results.
        rows = [row for _, row in sorted(votes.items())]
        rank_class.results[task_id] = settle(rank_class.results[task_id], rows, run.config.autotune.tie_band)
    return []


def is_settled(rank_class: ClassState) -> bool:
    """Return True if every voter has voted on every task."""
    return bool(rank_class.ballots) and all(ballot.is_done for ballot in rank_class.ballots.values())


def settle(first: TaskResult, votes: list[TaskResult], tie_band: float) -> TaskResult:
    """Build the result from the voters' median times.

    A candidate that failed on any voter is out.

    Args:
        first: what tuning gave; keeps its keys and policy, and its choice when no candidate is left.
        votes: one result per voter, all of the same short list.
        tie_band: share within which medians count as equal.
    """
    times: dict[Choice, list[Measurement]] = {}
    for vote_ in votes:
        for row in vote_.measurements:
            times.setdefault(Choice(row.runner, row.tactic), []).append(row)
    rows = []
    for choice, found in times.items():
        # A tactic that failed on one rank could fail there when it serves.
        if len(found) == len(votes):
            rows.append(_merged(choice, found))
    if not rows:
        return first
    ordered = tuple(sorted(rows, key=lambda row: row.median_s))
    return replace(first, choice=choose(ordered, tie_band), measurements=ordered)


def _merged(choice: Choice, found: list[Measurement]) -> Measurement:
    """One candidate's measurements by all voters as one: the median of medians, half their range."""
    medians = [row.median_s for row in found]
    return Measurement(
        runner=choice.runner,
        tactic=choice.tactic,
        median_s=statistics.median(medians),
        spread_s=(max(medians) - min(medians)) / 2,
        repeats=sum(row.repeats for row in found),
    )
