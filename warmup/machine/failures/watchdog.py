"""Find late, silent and returned ranks on every tick.

Pure: the machine decides the consequences.

A process whose heartbeat stopped is *frozen*, whatever it was at: it stands still, or something in it holds the
interpreter. One that beats and does not finish *hangs* in what it says. Only the latter tells against a tactic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_warmup.configs.schema import TimeoutsSection
from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.failures.failure_messages import Status, late_task, silent
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import Run
from ray_warmup.warmup.tasks import TacticId

SILENT_BEATS = 2
"""A rank counts as silent after so many intervals without a heartbeat."""
BEATS_PER_S = 200
"""Heartbeats that one coordinator asks for without effort; with more ranks each is asked less often."""
BEATS_IN_SILENCE = 3
"""However many ranks there are, each is asked so often before it is given up as silent."""


@dataclass(frozen=True, slots=True)
class Late:
    """A rank that is given up."""

    rank: int
    reason: str
    culprit: TacticId | None = None
    """The tactic in which its task hangs, as its last heartbeat had it."""
    is_frozen: bool = False
    """Its heartbeat stopped: nothing is said against what it was at."""


def beat_interval(timeouts: TimeoutsSection, num_ranks: int) -> float:
    """Seconds between two heartbeats of one rank."""
    return min(max(timeouts.heartbeat, num_ranks / BEATS_PER_S), timeouts.silence / BEATS_IN_SILENCE)


def late_ranks(run: Run, statuses: Mapping[int, Status], now: float) -> Iterator[Late]:
    """Ranks that are silent for too long, and ranks that live and whose task is over its deadline.

    A rank works on its oldest call; its heartbeat says since when, unless it has been silent since before.
    """
    limits = run.config.timeouts
    for rank, state in run.ranks.items():
        if not state.is_silent:
            continue
        elapsed = now - last_heard(run, rank, statuses)
        if elapsed > limits.silence:
            text = silent(run, rank, statuses.get(rank, Status()), elapsed, beat_interval(limits, len(run.ranks)))
            yield Late(rank, f"{text}; given up after {limits.silence:g} s (timeouts.silence)", is_frozen=True)
    for rank, calls in run.calls_of.items():
        # Calls of one rank run one after another, so only the oldest can have begun.
        call = next(iter(calls.values()))
        if not isinstance(call, Call) or call.task_id is None or now - run.call_began[call.call_id] <= limits.task:
            continue
        status = statuses.get(rank, Status())
        since, culprit = 0.0, None
        # An older heartbeat still names the previous task, whose start and tactic say nothing here.
        if status.task_id == call.task_id:
            since = status.since
            if status.runner:
                culprit = TacticId(status.op, status.runner, status.tactic)
        elapsed = lived(run, call, since, statuses, now)
        if elapsed > limits.task:
            yield Late(rank, late_task(run, call, status, elapsed), culprit)


def lived(run: Run, call: Call, since: float, statuses: Mapping[int, Status], now: float) -> float:
    """Seconds that a rank has been at its call, without those in which it was not heard."""
    state = run.ranks[call.rank]
    frozen = 0.0
    if state.frozen_in == call.call_id:
        frozen = state.frozen_s
    if state.is_silent:
        frozen += now - last_heard(run, call.rank, statuses)
    # The later of both, because a call may wait in the rank's queue before it begins.
    return now - max(run.call_began[call.call_id], since) - frozen


def mark_silent(run: Run, statuses: Mapping[int, Status], now: float) -> None:
    """Mark ranks that have missed two heartbeats, and those that are heard again.

    No rank is killed here.
    """
    allowed = SILENT_BEATS * beat_interval(run.config.timeouts, len(run.ranks))
    for rank, state in run.ranks.items():
        heard = last_heard(run, rank, statuses)
        gap, state.heard = heard - state.heard, heard
        if state.is_silent and gap > 0:
            _thawed(run, rank, state, gap)
        elapsed = now - heard
        # A process that is being started cannot beat yet, and its start has a limit of its own.
        if state.is_starting:
            elapsed = 0.0
        was_silent, state.is_silent = state.is_silent, elapsed > allowed
        if state.is_silent and not was_silent:
            words = silent(run, rank, statuses.get(rank, Status()), elapsed, allowed / SILENT_BEATS)
            run.silences.fell_silent(state.info, words)
        elif was_silent and not state.is_silent and state.is_alive:
            run.silences.came_back(
                state.info, f"{state.info} is back in phase {run.phase} after {gap:.1f} s of silence"
            )
    for text in run.silences.told(now):
        run.warn(
            text, "a busy host needs a larger timeouts.heartbeat; a stopped process is replaced after timeouts.silence"
        )


def _thawed(run: Run, rank: int, state: RankState, gap: float) -> None:
    """The time for which it stood still is no time of the call that it was at."""
    call = next(iter(run.calls_of.get(rank, ())), None)
    if call is None:
        return
    if state.frozen_in != call:
        state.frozen_in, state.frozen_s = call, 0.0
    state.frozen_s += gap


def last_heard(run: Run, rank: int, statuses: Mapping[int, Status]) -> float:
    """The present process' last heartbeat, or the moment from which it was expected to beat."""
    status = statuses.get(rank)
    since = run.ranks[rank].watched_since
    if status is None:
        return since
    # A heartbeat of the predecessor must not make a fresh process look silent.
    return max(since, status.heard)
