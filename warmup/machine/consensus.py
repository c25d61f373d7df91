"""Consensus: k ranks measure the same short list of every task, and the median decides.

For models whose ranks see different load, where one rank's favourite is another's slow tactic. Comes after
the sharded part of TUNING, which makes the short lists; one pool per voter, so that each votes on every task.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from ray_warmup.warmup.choosing import choose
from ray_warmup.warmup.machine.pool import TaskPool
from ray_warmup.warmup.machine.state import ClassState, Commands, Run
from ray_warmup.warmup.messages.answers import Voted
from ray_warmup.warmup.messages.questions import Vote
from ray_warmup.warmup.tasks import Choice, Measurement, TaskResult


def open_ballots(run: Run, group: ClassState) -> Commands:
    """One pool of every tuned task for each of the first k live ranks, the leader among them."""
    tuned = {task_id for task_id, result in group.results.items() if result.outcome == "tuned"}
    tasks = [task for task in group.tasks if task.task_id in tuned]
    others = [rank for rank in run.alive(group) if rank != group.leader]
    voters = [group.leader, *others][: run.config.autotune.consensus_ranks]
    if len(voters) < run.config.autotune.consensus_ranks:
        run.warn(
            f"consensus among {len(voters)} ranks: the class of rank {group.leader} has no more "
            f"(autotune.consensus_ranks is {run.config.autotune.consensus_ranks})"
        )
    group.ballots = {rank: TaskPool(tasks) for rank in voters}
    return [call for rank in voters for call in vote(run, group, rank)]


def vote(run: Run, group: ClassState, rank: int) -> Commands:
    """Deal the next task to a voter, or none if it has voted on all or is not a voter."""
    ballot = group.ballots.get(rank)
    if ballot is None or not run.ranks[rank].is_alive or ballot.num_running(rank):
        return []
    task_id = ballot.deal(rank)
    if task_id is None:
        return []
    shortlist = tuple(Choice(row.runner, row.tactic) for row in group.results[task_id].measurements)
    return [run.call(rank, Vote(task_id, shortlist, group.quarantine))]


def voted(run: Run, group: ClassState, rank: int, value: Voted) -> Commands:
    """Keep a vote.

    After the last one, settle every task.
    """
    task_id = value.result.task_id
    if group.ballots[rank].finish(task_id):
        group.votes.setdefault(task_id, {})[rank] = value.result
    return settle_all(run, group) if is_settled(group) else vote(run, group, rank)


def resume(run: Run, group: ClassState) -> Commands:
    """The phase begins once more, perhaps with fewer voters: the votes that are missing, or the outcome."""
    if is_settled(group):
        return settle_all(run, group)
    return [call for rank in group.ballots for call in vote(run, group, rank)]


def settle_all(run: Run, group: ClassState) -> Commands:
    """Every vote is in."""
    for task_id, votes in group.votes.items():
        rows = [votes[rank] for rank in sorted(votes)]
        group.results[task_id] = settle(group.results[task_id], rows, run.config.autotune.tie_band)
    return []


def is_settled(group: ClassState) -> bool:
    """Return True if every voter has voted on every task."""
    return bool(group.ballots) and all(ballot.is_done for ballot in group.ballots.values())


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
    rows = tuple(
        Measurement(
            runner=choice.runner,
            tactic=choice.tactic,
            median_s=statistics.median(row.median_s for row in found),
            spread_s=(max(row.median_s for row in found) - min(row.median_s for row in found)) / 2,
            repeats=sum(row.repeats for row in found),
        )
        for choice, found in times.items()
        if len(found) == len(votes)
    )
    if not rows:
        return first
    ordered = tuple(sorted(rows, key=lambda row: row.median_s))
    return replace(first, choice=choose(ordered, tie_band), measurements=ordered)
