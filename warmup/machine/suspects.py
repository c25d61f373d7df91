"""After a death: was it the tactic? Decides what is quarantined, from what the dead process wrote last.

A fatal signal, a dead CUDA context or a hang is blamed on the tactic that ran; a plain kill from outside only when the
same task or tactic meets it twice. A process that froze (stopped, paused) says nothing against its tactic until another
one freezes in the same; and a hang alone does not take the default tactic, which must be left where nothing else runs.
What is quarantined is measured by nobody again and its task keeps another tactic.
"""

from __future__ import annotations

from typing import Any

from ray_warmup.warmup.machine.commands import Failure
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.state import ClassState, RankState, Run
from ray_warmup.warmup.tasks import DEFAULT_TACTIC

PATIENCE = 2
"""Deaths in one task, or in one tactic on any rank, after which a kill without a trace is blamed on the tactic, too."""


def suspect(state: RankState, task_id: str, *, hung: bool, failure: Failure | None = None) -> None:
    """A rank died, or hung, while this task ran: nobody else gets it until the successor says what happened."""
    state.suspect = task_id
    state.suspect_hung, state.suspect_failure = hung, failure
    state.suspect_froze = hung and failure is None
    state.deaths_on[task_id] = state.deaths_on.get(task_id, 0) + 1


def judge(run: Run, group: ClassState, state: RankState) -> None:
    """The successor is there: read its predecessor's last words and draw the consequence."""
    task_id, hung, failure, froze = state.suspect, state.suspect_hung, state.suspect_failure, state.suspect_froze
    state.suspect, state.suspect_hung, state.suspect_failure, state.suspect_froze = None, False, None, False
    words = _words_about(state, task_id, failure, hung=hung)
    if task_id is None or words is None:
        return
    tactic = (words["op"], words["runner"], words["tactic"])
    group.deaths_in[tactic] = deaths = group.deaths_in.get(tactic, 0) + 1
    is_guarded = run.phase is Phase.GUARDING and task_id in group.results
    in_tactic_again = bool(words["runner"]) and deaths >= PATIENCE
    again = in_tactic_again or (state.deaths_on[task_id] >= PATIENCE and not froze)
    is_spared = froze or (hung and not is_guarded and words["tactic"] == str(DEFAULT_TACTIC))
    if not (again or (not is_spared and (hung or words["is_fatal"]))):
        return
    why = (
        "was running when its process froze in"
        if froze
        else "hung in"
        if hung
        else "killed its process in"
        if words["is_fatal"]
        else "ran when its process was killed in"
    )
    if words["runner"] and not (is_guarded and words["tactic"] == str(DEFAULT_TACTIC)):
        entry = {name: words[name] for name in ("op", "runner", "tactic")}
        if entry not in group.quarantine:
            group.quarantine.append(entry)
        run.warn(
            f"quarantined {words['runner']} tactic {words['tactic']} of {words['op']}: it {why} task {task_id} on "
            f"{state.info}{_kept(state, words)}"
        )
    elif is_guarded:
        group.verdicts[task_id] = crashed(group.results[task_id], why)
        if group.pool is not None:
            group.pool.finish(task_id)
        run.warn(f"the guard of task {task_id} {why} {state.info}; it keeps the default tactic{_kept(state, words)}")


def _words_about(
    state: RankState, task_id: str | None, failure: Failure | None, *, hung: bool
) -> dict[str, Any] | None:
    """What the dead process wrote last about this task, or what else is known of its end.

    A record is newer than a heartbeat, which stands in where there is none. A last exception knows better than the
    record: FlashInfer may have gone on after the tactic that took the context, so that the record names a later one.
    """
    found: dict[str, Any] = state.description.get("last_words") or {}
    words = found if task_id is not None and found.get("task_id") == task_id else None
    is_best = words is not None and words["runner"] and (hung or (failure is not None and failure.culprit is None))
    if failure is None or is_best:
        return words
    op, runner, tactic = failure.culprit or ("", "", "")
    stack = "" if words is None else words["stack"]
    return {"op": op, "runner": runner, "tactic": tactic, "stack": stack, "is_fatal": True}


def show_stack(run: Run, state: RankState) -> None:
    """The successor of a process that was given up outside a task is there: say where the process stood."""
    was_hung, state.hung_outside = state.hung_outside, False
    words: dict[str, Any] = state.description.get("last_words") or {}
    if was_hung and words.get("stack"):
        run.warn(f"{state.info} was given up in `{words['method']}`{_kept(state, words)}")


def crashed(result: dict[str, Any], why: str) -> dict[str, Any]:
    """The verdict of a task whose guard took its process with it."""
    return {
        "task_id": result["task_id"],
        "decision": "crashed",
        "choice": {"runner": result["default_runner"], "tactic": -1},
        "ratio": 1.0,
        "winner_ratio": 1.0,
        "default_s": 0.0,
        "rounds": 0,
        "note": f"the guard {why} the process",
        "rank": 0,
    }


def _kept(state: RankState, words: dict[str, Any]) -> str:
    """Keep the dump for the report; the words that say so, empty when there is none."""
    stack = words.get("stack", "").strip()
    if not stack:
        return ""
    state.stack = stack
    return f" ({stack.splitlines()[0]}; the report has its stack)"
