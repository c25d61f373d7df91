"""Tune with an engine's own step (sm120_decode) on a class's leader, at the end of TUNING.

It is optional: when it fails, hangs or kills its process the table is made without it, and FlashInfer's heuristic
serves. What it tuned is part of the artifact, so a found artifact has it and nobody tunes it again.
"""

from __future__ import annotations

from collections.abc import Iterable

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Adopt, Call, any_asks
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.machine.steps import consensus
from ray_warmup.warmup.messages.answers import EngineTuned
from ray_warmup.warmup.messages.questions import TuneEngine

WARMUP = "sm120_decode"


def is_owed(run: Run, rank_class: ClassState) -> bool:
    """Return True if the class's ranks have something to tune and no rank has tuned it."""
    return (
        not rank_class.is_hit
        and rank_class.engine_tuned is None
        and run.ranks[rank_class.leader].described.tunes_engine
    )


def ask(run: Run, rank_class: ClassState) -> Commands:
    """The call to the leader, once nothing else of the class is measured."""
    is_measuring = rank_class.pool is None or not rank_class.pool.is_done or bool(run.calls_of.get(rank_class.leader))
    is_voting = bool(rank_class.ballots) and not consensus.is_settled(rank_class)
    if is_measuring or is_voting or not run.ranks[rank_class.leader].is_alive or not is_owed(run, rank_class):
        return []
    return [run.call(rank_class.leader, TuneEngine())]


def keep(run: Run, rank_class: ClassState, value: EngineTuned) -> None:
    """The leader's files, for whoever packs."""
    rank_class.engine_tuned = value.tuned
    for warning in value.warnings:
        run.warn(f"engine warmup: {warning}", remedies.LEFT_OUT)


def give_up(run: Run, rank_class: ClassState, why: str) -> None:
    """The table is made without it."""
    rank_class.engine_tuned = ()
    text = f"nothing was tuned with an engine's step: {why}; FlashInfer's own heuristics serve there"
    run.warn(text, remedies.LEFT_OUT)


def is_required(run: Run) -> bool:
    """Return True if the run fails with this tuning, as for any engine warmup."""
    return WARMUP in run.config.engine.required


def was_running(calls: Iterable[Call | Adopt]) -> bool:
    """Return True if a rank was tuning with the engine when it died."""
    return any_asks(calls, TuneEngine)
