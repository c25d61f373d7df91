"""TUNING and GUARDING: the phases in which devices measure.

Tasks are dealt from a pool, to the leader alone or to every rank of the class; a lost rank's task in flight goes back
to the pool.
"""

from __future__ import annotations

from collections import deque

from ray_warmup.warmup.artifact.quarantine import without_quarantined
from ray_warmup.warmup.machine import consensus, engine_tuning, peers
from ray_warmup.warmup.machine.commands import Adopt, Call, Failure
from ray_warmup.warmup.machine.leadership import take_over
from ray_warmup.warmup.machine.logic import PhaseLogic
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.pool import TaskPool
from ray_warmup.warmup.machine.state import ClassState, Commands, Run
from ray_warmup.warmup.machine.suspects import judge
from ray_warmup.warmup.messages.answers import Answer, Compared, EngineTuned, Guarded, Tuned, Voted
from ray_warmup.warmup.messages.questions import Compare, Guard, Question, Tune, TuneEngine
from ray_warmup.warmup.messages.values import PoolTask

NOT_TUNED = {
    "oom": "no tactic fits into memory, not even after freeing caches (autotune.max_memory_bytes)",
    "no_valid_tactic": "no tactic ran",
}
"""Outcomes of a task that need a word; `collision` is told when the table is packed."""
AT_ONCE = 500
"""Tasks that are dealt in one step: the loop that steps the machine must not stand still for thousands of ranks."""


class PoolPhase(PhaseLogic):
    """Deals the tasks of every class until none is left."""

    def tasks(self, run: Run, group: ClassState) -> list[PoolTask]:
        """Return the tasks of a class."""
        raise NotImplementedError(f"{type(self).__name__} must name its tasks")

    def question(self, group: ClassState, task_id: str, *, packs: bool) -> Question:
        """Return the question about a task.

        `packs`: the asked rank leads the class.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it asks")

    def keep(self, run: Run, group: ClassState, value: Answer) -> None:
        """A task's result arrived."""
        raise NotImplementedError(f"{type(self).__name__} must keep results")

    def enter(self, run: Run) -> Commands:
        commands: Commands = []
        for group in run.classes.values():
            group.pool = TaskPool(self.tasks(run, group))
            commands += self._feed_all(run, group)
        return commands

    def more(self, run: Run) -> Commands:
        return [command for group in run.classes.values() for command in self._feed_some(run, group)]

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        if not isinstance(value, Tuned | Guarded) or call.task_id is None:
            return []
        group = run.class_of(call.rank)
        if group.pool is not None and group.pool.finish(call.task_id):
            self.keep(run, group, value)
        return self._feed(run, group, call.rank) + self._feed_some(run, group)

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        group = run.class_of(rank)
        if group.pool is not None:
            group.pool.lose(rank, run.ranks[rank].suspect)
        take_over(run, group, rank)
        return self._feed_all(run, group)

    def joined(self, run: Run, rank: int) -> Commands:
        group = run.class_of(rank)
        judge(run, group, run.ranks[rank])
        if group.pool is not None:
            group.pool.release(rank)
        return self._feed_all(run, group)

    def is_complete(self, run: Run) -> bool:
        if not super().is_complete(run):
            return False
        return all(group.pool is None or group.pool.is_done for group in run.classes.values())

    def works(self, run: Run, group: ClassState, rank: int) -> bool:
        """Return True if a rank measures: every live one, or the leader alone."""
        shared = group.strategy in ("sharded", "consensus")
        return run.ranks[rank].is_alive and (shared or rank == group.leader)

    def _feed_all(self, run: Run, group: ClassState) -> Commands:
        """Give every rank that has none a task, the first ones now."""
        group.hungry = deque(group.ranks)
        return self._feed_some(run, group)

    def _feed_some(self, run: Run, group: ClassState) -> Commands:
        """As many as one step may take."""
        commands: Commands = []
        if group.pool is None or not group.pool.num_waiting:
            group.hungry.clear()
        while group.hungry and len(commands) < AT_ONCE:
            rank = group.hungry.popleft()
            if rank in run.ranks:
                commands += self._feed(run, group, rank)
        return commands

    def _feed(self, run: Run, group: ClassState, rank: int) -> Commands:
        """The next task for a rank that has none.

        One at a time: with a second one queued, a death between two tasks would also cost the finished one, whose
        result had not left the process. A rank idles for one round trip of Ray, some milliseconds.
        """
        pool = group.pool
        if pool is None or pool.num_running(rank) or not self.works(run, group, rank):
            return []
        task_id = pool.deal(rank)
        if task_id is None:
            return []
        return [run.call(rank, self.question(group, task_id, packs=rank == group.leader))]


class Tuning(PoolPhase):
    """Measures every task that no store and no earlier attempt has."""

    phase = Phase.TUNING

    def tasks(self, run: Run, group: ClassState) -> list[PoolTask]:
        if group.is_hit:
            return []
        return [task for task in group.tasks if task.task_id not in group.results]

    def question(self, group: ClassState, task_id: str, *, packs: bool) -> Question:
        return Tune(task_id, group.quarantine, packs)

    def keep(self, run: Run, group: ClassState, value: Answer) -> None:
        assert isinstance(value, Tuned), "a task was tuned"
        result = value.result
        group.results[result.task_id] = result
        group.measured += 1
        if (why := NOT_TUNED.get(result.outcome)) is not None:
            run.warn(f"{result.task_id} keeps the default tactic: {why}")

    def enter(self, run: Run) -> Commands:
        again = [c for g in run.classes.values() if g.ballots for c in consensus.resume(run, g)]
        dealt = super().enter(run) + again
        return dealt + [c for g in run.classes.values() for c in self._then(run, g, dealt)]

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        group = run.class_of(call.rank)
        commands: Commands = []
        match value:
            case Compared():
                peers.keep(group, call.rank, value)
            case Voted():
                commands = consensus.voted(run, group, call.rank, value)
            case EngineTuned():
                engine_tuning.keep(run, group, value)
            case _:
                commands = super().returned(run, call, value)
        return commands + self._then(run, group, commands)

    def refused(self, run: Run, call: Call | Adopt, failure: Failure) -> Commands | None:
        group, info = run.class_of(call.rank), run.ranks[call.rank].info
        question = call.question if isinstance(call, Call) else None
        if isinstance(question, Compare):
            run.warn(f"{info} could not be compared with its peers: {failure.kind}: {failure.message}")
            return self._then(run, group, [])
        if not isinstance(question, TuneEngine) or engine_tuning.is_required(run):
            return None
        engine_tuning.give_up(run, group, f"{info}: {failure.kind}: {failure.message}")
        return []

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        group = run.class_of(rank)
        if engine_tuning.was_running(calls):
            engine_tuning.give_up(run, group, f"{run.ranks[rank].info} died in it")
        if (ballot := group.ballots.get(rank)) is not None:
            ballot.lose(rank)
        commands = super().lost(run, rank, calls)
        return commands + self._then(run, group, commands)

    def joined(self, run: Run, rank: int) -> Commands:
        group = run.class_of(rank)
        commands = super().joined(run, rank) + consensus.vote(run, group, rank)
        return commands + self._then(run, group, commands)

    def is_complete(self, run: Run) -> bool:
        return super().is_complete(run) and not any(self._owes(run, group) for group in run.classes.values())

    def _owes(self, run: Run, group: ClassState) -> bool:
        is_voting = bool(group.ballots) and not consensus.is_settled(group)
        return is_voting or peers.is_owed(run, group) or engine_tuning.is_owed(run, group)

    def _then(self, run: Run, group: ClassState, commands: Commands) -> Commands:
        """Return the next commands once all tasks are dealt: ballots, the shared task, then the leader's engine
        tuning."""
        if any(run.class_of(command.rank) is group for command in commands) or peers.is_comparing(run, group):
            return []
        return self._maybe_vote(run, group) or peers.compare(run, group) or engine_tuning.ask(run, group)

    def _maybe_vote(self, run: Run, group: ClassState) -> Commands:
        """Open the ballots once every task has a short list."""
        tuned_now = group.pool is not None and group.pool.is_done and group.measured > 0
        if group.strategy != "consensus" or not tuned_now:
            return []
        return [] if group.ballots else consensus.open_ballots(run, group)


class Guarding(PoolPhase):
    """Re-measures every tuned winner against the default tactic."""

    phase = Phase.GUARDING

    def tasks(self, run: Run, group: ClassState) -> list[PoolTask]:
        if not group.needs_guard:
            return []
        tuned = {task_id for task_id, result in group.results.items() if result.outcome == "tuned"}
        return [t for t in group.tasks if t.task_id in tuned and t.task_id not in group.verdicts]

    def question(self, group: ClassState, task_id: str, *, packs: bool) -> Question:
        return Guard(task_id, without_quarantined(group.results[task_id], group.quarantine), group.quarantine, packs)

    def keep(self, run: Run, group: ClassState, value: Answer) -> None:
        assert isinstance(value, Guarded), "a task was guarded"
        group.verdicts[value.verdict.task_id] = value.verdict
