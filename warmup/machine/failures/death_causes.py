"""After a death: was it the tactic? Decides what is quarantined, from what the dead process wrote last.

A fatal signal, a dead CUDA context or a hang is blamed on the tactic that ran; a plain kill from outside only when the
same task or tactic meets it twice. A process that froze (stopped, paused) says nothing against its tactic until another
one freezes in the same; and a hang alone does not take the default tactic, which must be left where nothing else runs.
What is quarantined is measured by nobody again and its task keeps another tactic.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Failure
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import ClassState, Run
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, GuardVerdict, TacticId, TaskResult

PATIENCE = 2
"""Deaths in one task, or in one tactic on any rank, after which a kill without a trace is blamed on the tactic, too."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence of a process's end in a task.

    `tactic.runner` is empty if no tactic is known.
    """

    tactic: TacticId
    is_fatal: bool
    """The process brought its own end about."""
    stack: str = ""


def suspect(state: RankState, task_id: str, *, hung: bool, failure: Failure | None = None) -> None:
    """A rank died, or hung, while this task ran: nobody else gets it until the successor says what happened."""
    state.suspect = task_id
    state.suspect_hung, state.suspect_failure = hung, failure
    state.suspect_froze = hung and failure is None
    state.deaths_on[task_id] = state.deaths_on.get(task_id, 0) + 1


def assess_death(run: Run, rank_class: ClassState, state: RankState) -> None:
    """The successor is there: read its predecessor's last words and draw the consequence."""
    task_id, hung, failure, froze = state.suspect, state.suspect_hung, state.suspect_failure, state.suspect_froze
    state.suspect, state.suspect_hung, state.suspect_failure, state.suspect_froze = None, False, None, False
    evidence = _evidence_about(state, task_id, failure, hung=hung)
    if task_id is None or evidence is None:
        return
    tactic = evidence.tactic
    rank_class.deaths_in[tactic] = deaths = rank_class.deaths_in.get(tactic, 0) + 1
    is_guarded = run.phase is Phase.GUARDING and task_id in rank_class.results
    in_tactic_again = bool(tactic.runner) and deaths >= PATIENCE
    again = in_tactic_again or (state.deaths_on[task_id] >= PATIENCE and not froze)
    is_default = tactic.tactic == str(DEFAULT_TACTIC)
    is_spared = froze or (hung and not is_guarded and is_default)
    if not (again or (not is_spared and (hung or evidence.is_fatal))):
        return
    why = _end_in(froze=froze, hung=hung, is_fatal=evidence.is_fatal)
    if tactic.runner and not (is_guarded and is_default):
        if tactic not in rank_class.quarantine:
            rank_class.quarantine += (tactic,)
        run.warn(
            f"quarantined {tactic.runner} tactic {tactic.tactic} of {tactic.op}: it {why} task {task_id} on "
            f"{state.info}{_kept(state, evidence.stack)}",
            remedies.QUARANTINED,
        )
    elif is_guarded:
        rank_class.verdicts[task_id] = crashed(rank_class.results[task_id], why)
        rank_class.confirmations.close(task_id)
        if rank_class.pool is not None:
            rank_class.pool.finish(task_id)
        run.warn(
            f"the guard of task {task_id} {why} {state.info}; it keeps the default tactic"
            f"{_kept(state, evidence.stack)}",
            "nothing to do; --retune tries it again",
        )


def _end_in(*, froze: bool, hung: bool, is_fatal: bool) -> str:
    """Say how a process ended, before the name of its task."""
    if froze:
        return "was running when its process froze in"
    if hung:
        return "hung in"
    if is_fatal:
        return "killed its process in"
    return "ran when its process was killed in"


def _evidence_about(state: RankState, task_id: str | None, failure: Failure | None, *, hung: bool) -> Evidence | None:
    """Return the dead process's last record of this task, or other evidence of its end.

    A record is newer than a heartbeat, which stands in where there is none. A last exception knows better than the
    record: FlashInfer may have gone on after the tactic that took the context, so that the record names a later one.
    """
    words = state.described.last_words
    if words is not None and words.task_id != task_id:
        words = None  # it speaks of another task
    is_best = words is not None and words.runner and (hung or (failure is not None and failure.culprit is None))
    if words is not None and (failure is None or is_best):
        return Evidence(TacticId(words.op, words.runner, words.tactic), words.is_fatal, words.stack)
    if failure is None:
        return None
    culprit = failure.culprit or TacticId("", "", "")
    return Evidence(culprit, is_fatal=True, stack="" if words is None else words.stack)


def show_stack(run: Run, state: RankState) -> None:
    """The successor of a process that was given up outside a task is there: say where the process stood."""
    was_hung, state.hung_outside = state.hung_outside, False
    words = state.described.last_words
    if was_hung and words is not None and words.stack:
        run.warn(f"{state.info} was given up in `{words.method}`{_kept(state, words.stack)}", remedies.NOTHING)


def crashed(result: TaskResult, why: str) -> GuardVerdict:
    """The verdict of a task whose guard took its process with it."""
    return GuardVerdict(
        task_id=result.task_id,
        decision="crashed",
        choice=Choice(result.default_runner, DEFAULT_TACTIC),
        ratio=1.0,
        winner_ratio=1.0,
        default_s=0.0,
        rounds=0,
        note=f"the guard {why} the process",
    )


def _kept(state: RankState, stack: str) -> str:
    """Keep the stacks for the report, and return a sentence about them, or an empty string."""
    stack = stack.strip()
    if not stack:
        return ""
    state.stack = stack
    return f" ({stack.splitlines()[0]}; the report has its stack)"
