"""The deadline of each question in a run with a real engine."""

from __future__ import annotations

from ray_warmup.warmup.engines.machine.state import EngineRun
from ray_warmup.warmup.machine.commands import Adopt, Call
from ray_warmup.warmup.messages import engine

SLACK_S = 30.0
"""Beyond the deadline of an engine's start: the launcher ends it first, and says what the engine was at."""
LOSSES_PER_RANK = 2
FIELD_OF: dict[type[engine.EngineQuestion], str] = {
    engine.DescribeNode: "probing",
    engine.CaptureEngine: "capturing",
    engine.PackEngine: "pushing",
    engine.InstallEngine: "installing",
}


def limit_of(run: EngineRun, call: Call | Adopt) -> float:
    """Return the seconds that a call may take."""
    if isinstance(call, Adopt):
        return float(run.config.timeouts.pushing)
    field = next((name for kind, name in FIELD_OF.items() if isinstance(call.question, kind)), None)
    section = run.config.engine
    if isinstance(call.question, engine.RecordEngine) and section.tuning == "auto":
        # A tactic that takes a rank costs the replica a start, twice per rank at most.
        return section.start_deadline * (1 + LOSSES_PER_RANK * section.ranks_per_replica) + SLACK_S
    if field is None:
        return section.start_deadline + SLACK_S
    return float(getattr(run.config.timeouts, field))
