"""What a rank's answer adds to the books. An answer that no rank of its class may give is a failure of that rank."""

from __future__ import annotations

from typing import Any

from ray_warmup.warmup.machine import warming
from ray_warmup.warmup.machine.commands import Call, Failure
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.probing import describe
from ray_warmup.warmup.machine.state import RankState, Run


def keep_answer(run: Run, call: Call, state: RankState, value: dict[str, Any]) -> Failure | None:
    """Store what a rank is, loaded, replayed, warmed or confirmed."""
    match call.method:
        case "probe":
            return _described(run, call, state, value)
        case "load":
            return _loaded(call, state, value)
        case "replay":
            state.replay = value
            return Failure("ReplayError", "; ".join(value["failed"])) if value["failed"] else None
        case warming.METHOD:
            return warming.keep(run, state, value)
        case "confirm":
            state.stored = value["stored"]
            held = (state.load or {}).get("digest")
            text = f"it holds digest {value['digest']} at the end, it loaded {held}"
            return None if value["digest"] == held else Failure("LoadError", text)
    return None


def _described(run: Run, call: Call, state: RankState, value: dict[str, Any]) -> Failure | None:
    before = state.description.get("key", value["key"])
    describe(run, call.rank, value)
    if before == value["key"] or run.phase is Phase.PROBING:
        return None
    text = f"its replacement has cache key {value['key'][:12]}, not {before[:12]}"
    return Failure("FingerprintChangedError", text)


def _loaded(call: Call, state: RankState, value: dict[str, Any]) -> Failure | None:
    state.load = value
    if value["misses"]:
        shown = ", ".join(value["misses"][:3])
        return Failure("LoadError", f"{len(value['misses'])} of its tasks miss the table it loaded: {shown}")
    if value["digest"] != call.args["digest"]:
        return Failure("LoadError", f"it holds digest {value['digest']}, the class has {call.args['digest']}")
    return None
