"""The engine warmups of every rank, within REPLAYING: their deadlines, and which are given up after a death.

No rank waits for another one. A warmup that hangs or kills its process is like a tactic that does: an optional one is
left out by the successor, a required one fails the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_warmup.configs.engine_warmups import DEFAULT_DEADLINES
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Call, Failure
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.failures.watchdog import lived
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import Run
from ray_warmup.warmup.messages.answers import Warmed
from ray_warmup.warmup.messages.questions import TuneEngine, Warm, name_of

WARMING = name_of(Warm)
"""What a heartbeat says while a warmup runs, also while one is tuned."""


def warm(run: Run, rank: int) -> Call:
    """Ask a rank for its engine warmups, but for those that were given up there."""
    return run.call(rank, Warm(dict(run.ranks[rank].left_out)))


def keep(run: Run, state: RankState, value: Warmed) -> Failure | None:
    """Store a rank's warmup outcomes, and return a failure if a required warmup failed."""
    state.engine = value
    for warning in value.warnings:  # equal ones of many ranks are said once; the report has them by rank
        run.warn(f"engine warmup: {warning}", remedies.LEFT_OUT)
    if value.failed:
        return Failure("EngineWarmupError", "; ".join(value.failed))
    return None


@dataclass(frozen=True, slots=True)
class LateWarmup:
    """A warmup beyond its deadline."""

    rank: int
    name: str
    elapsed: float
    reason: str


def late_warmups(run: Run, statuses: Mapping[int, Status], now: float) -> Iterator[LateWarmup]:
    """The warmups in which ranks have been for too long, by their heartbeats."""
    for rank, calls in run.calls_of.items():
        call, status = next(iter(calls.values())), statuses.get(rank, Status())
        warms = isinstance(call, Call) and isinstance(call.question, Warm | TuneEngine)
        if not isinstance(call, Call) or not warms or status.phase != WARMING:
            continue
        elapsed = lived(run, call, status.since, statuses, now)
        limit = deadline(run.config, status.task_id)
        if limit is not None and elapsed > limit:
            yield LateWarmup(rank, status.task_id, elapsed, _late(run, rank, status.task_id, elapsed, limit))


def deadline(config: WarmupConfig, name: str) -> float | None:
    """Deadline of an engine warmup in seconds, or None if `name` is not a warmup (e.g. creating the runner)."""
    asked: dict[str, float] = {str(warmup): seconds for warmup, seconds in config.engine.deadlines.items()}
    return asked.get(name, DEFAULT_DEADLINES.get(name))


def is_required(run: Run, name: str) -> bool:
    """Return True if the run fails with this warmup."""
    return name in run.config.engine.required


def give_up(run: Run, state: RankState, name: str, why: str) -> None:
    """Leave a warmup out on this rank from now on."""
    if name not in state.left_out:
        state.left_out[name] = why
        run.warn(f"engine warmup {name} is left out on {state.info}: {why}", remedies.LEFT_OUT)


def give_up_after_death(run: Run, state: RankState) -> None:
    """The successor is there: an optional warmup in which its predecessor died is not tried again."""
    words = state.described.last_words
    if words is None or words.method != WARMING:
        return
    if deadline(run.config, words.task_id) is not None and not is_required(run, words.task_id):
        give_up(run, state, words.task_id, "it ran when the process died")


def _late(run: Run, rank: int, name: str, elapsed: float, limit: float) -> str:
    state = run.ranks[rank]
    return (
        f"{state.info} [{state.device}], phase {run.phase}, engine warmup {name}: "
        f"for {elapsed:.1f} s of {limit:g} s allowed (engine.deadlines.{name})"
    )
