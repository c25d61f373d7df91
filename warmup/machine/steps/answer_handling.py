"""Apply a rank's answer to the run's state.

An answer that no rank of its class may give is a failure of that rank.
"""

from __future__ import annotations

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Call, Failure
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import Run
from ray_warmup.warmup.machine.steps import engine_warmups
from ray_warmup.warmup.messages.answers import Answer, Confirmed, Loaded, Probed, Replayed, Warmed
from ray_warmup.warmup.messages.questions import Load


def keep_answer(run: Run, call: Call, state: RankState, value: Answer) -> Failure | None:
    """Store what a rank is, loaded, replayed, warmed or confirmed."""
    match value:
        case Probed():
            return _described(run, state, value)
        case Loaded():
            return _loaded(call, state, value)
        case Replayed():
            state.replay = value
            if value.failed:
                return Failure("ReplayError", "; ".join(value.failed))
        case Warmed():
            return engine_warmups.keep(run, state, value)
        case Confirmed(digest=digest, stored=stored):
            state.stored = stored
            if digest != state.loaded_digest:
                text = f"it holds digest {digest} at the end, it loaded {state.loaded_digest}"
                return Failure("LoadError", text)
    return None


def _described(run: Run, state: RankState, value: Probed) -> Failure | None:
    before = (state.description or value).key
    state.description = value
    for warning in value.warnings:
        run.warn(f"{state.info}: {warning}", remedies.WRITABLE)
    if before == value.key or run.phase is Phase.PROBING:
        return None
    text = f"its replacement has cache key {value.key[:12]}, not {before[:12]}"
    return Failure("FingerprintChangedError", text)


def _loaded(call: Call, state: RankState, value: Loaded) -> Failure | None:
    state.load = value
    asked = call.question
    assert isinstance(asked, Load), "what is loaded was asked for"
    if value.misses:
        shown = ", ".join(value.misses[:3])
        return Failure("LoadError", f"{len(value.misses)} of its tasks miss the table it loaded: {shown}")
    if value.digest != asked.digest:
        return Failure("LoadError", f"it holds digest {value.digest}, the class has {asked.digest}")
    return None
