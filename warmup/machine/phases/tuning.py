"""TUNING and GUARDING: the phases in which devices measure.

Tasks are dealt from a pool, to the leader alone or to every rank of the class; a lost rank's task in flight goes back
to the pool.
"""

from __future__ import annotations

from collections import deque
from functools import partial

from ray_warmup.warmup import remedies
from ray_warmup.warmup.artifact.quarantine import without_quarantined
from ray_warmup.warmup.machine.commands import Adopt, Call, Failure, asks
from ray_warmup.warmup.machine.failures.death_causes import assess_death
from ray_warmup.warmup.machine.phases.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.pool import TaskPool
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.machine.steps import consensus, engine_tuning, judges, peers
from ray_warmup.warmup.machine.steps.leadership import take_over
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

    def tasks(self, run: Run, rank_class: ClassState) -> list[PoolTask]:
        """Return the tasks of a class."""
        raise NotImplementedError(f"{type(self).__name__} must name its tasks")

    def question(self, rank_class: ClassState, task_id: str, *, packs: bool) -> Question:
        """Return the question about a task.

        `packs`: the asked rank leads the class.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it asks")

    def keep(self, run: Run, rank_class: ClassState, rank: int, value: Answer) -> None:
        """A task's result arrived from a rank."""
        raise NotImplementedError(f"{type(self).__name__} must keep results")

    def enter(self, run: Run) -> Commands:
        commands: Commands = []
        for rank_class in run.classes.values():
            rank_class.pool = TaskPool(self.tasks(run, rank_class))
            commands += self._feed_all(run, rank_class)
        return commands

    def more(self, run: Run) -> Commands:
        return run.each_class(partial(self._feed_some, run))

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        if not isinstance(value, Tuned | Guarded) or call.task_id is None:
            return []
        rank_class = run.class_of(call.rank)
        if rank_class.pool is not None and rank_class.pool.finish(call.task_id):
            self.keep(run, rank_class, call.rank, value)
        return self._feed(run, rank_class, call.rank) + self._feed_some(run, rank_class)

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        rank_class = run.class_of(rank)
        if rank_class.pool is not None:
            # Before another rank leads, so that the new leader finds the tasks in the pool.
            rank_class.pool.lose(rank, run.ranks[rank].suspect)
        take_over(run, rank_class, rank)
        return self._feed_all(run, rank_class)

    def joined(self, run: Run, rank: int) -> Commands:
        rank_class = run.class_of(rank)
        # Before the task is dealt again: its tactic may be quarantined by what the dead process recorded.
        assess_death(run, rank_class, run.ranks[rank])
        if rank_class.pool is not None:
            rank_class.pool.release(rank)
        return self._feed_all(run, rank_class)

    def is_complete(self, run: Run) -> bool:
        if not super().is_complete(run):
            return False
        return all(rank_class.pool is None or rank_class.pool.is_done for rank_class in run.classes.values())

    def works(self, run: Run, rank_class: ClassState, rank: int) -> bool:
        """Return True if a rank measures: every live one, or the leader alone."""
        return run.ranks[rank].is_alive and (rank_class.is_shared or rank == rank_class.leader)

    def num_waiting(self, rank_class: ClassState) -> int:
        """How many questions a rank of the class may still be given."""
        if rank_class.pool is None:
            return 0
        return rank_class.pool.num_waiting

    def _feed_all(self, run: Run, rank_class: ClassState) -> Commands:
        """Give every rank that has none a task, the first ones now."""
        rank_class.hungry = deque(rank_class.ranks)
        return self._feed_some(run, rank_class)

    def _feed_some(self, run: Run, rank_class: ClassState) -> Commands:
        """As many as one step may take."""
        commands: Commands = []
        if not self.num_waiting(rank_class):
            rank_class.hungry.clear()
        # The others are fed at the next tick.
        while rank_class.hungry and len(commands) < AT_ONCE and self.num_waiting(rank_class):
            rank = rank_class.hungry.popleft()
            # It may have left with its node since it was queued.
            if rank in run.ranks:
                commands += self._feed(run, rank_class, rank)
        return commands

    def _feed(self, run: Run, rank_class: ClassState, rank: int) -> Commands:
        """The next task for a rank that has none.

        One at a time: with a second one queued, a death between two tasks would also cost the finished one, whose
        result had not left the process. A rank idles for one round trip of Ray, some milliseconds.
        """
        pool = rank_class.pool
        if pool is None or pool.num_running(rank) or not self.works(run, rank_class, rank):
            return []
        task_id = pool.deal(rank)
        if task_id is None:
            return []
        return [run.call(rank, self.question(rank_class, task_id, packs=rank == rank_class.leader))]


class Tuning(PoolPhase):
    """Measures every task that no store and no earlier attempt has."""

    phase = Phase.TUNING

    def tasks(self, run: Run, rank_class: ClassState) -> list[PoolTask]:
        if rank_class.is_hit:
            return []
        return rank_class.unfinished_tasks()

    def question(self, rank_class: ClassState, task_id: str, *, packs: bool) -> Question:
        return Tune(task_id, rank_class.quarantine, packs)

    def keep(self, run: Run, rank_class: ClassState, rank: int, value: Answer) -> None:
        assert isinstance(value, Tuned), "a task was tuned"
        result = value.result
        rank_class.results[result.task_id] = result
        rank_class.measured += 1
        if (why := NOT_TUNED.get(result.outcome)) is not None:
            run.warn(f"{result.task_id} keeps the default tactic: {why}", remedies.MEMORY)

    def enter(self, run: Run) -> Commands:
        again = run.each_class(partial(consensus.resume, run))
        dealt = super().enter(run) + again
        return dealt + run.each_class(lambda rank_class: self._then(run, rank_class, dealt))

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        rank_class = run.class_of(call.rank)
        commands: Commands = []
        match value:
            case Compared():
                peers.keep(rank_class, call.rank, value)
            case Voted():
                commands = consensus.voted(run, rank_class, call.rank, value)
            case EngineTuned():
                engine_tuning.keep(run, rank_class, value)
            case _:
                commands = super().returned(run, call, value)
        return commands + self._then(run, rank_class, commands)

    def refused(self, run: Run, call: Call | Adopt, failure: Failure) -> Commands | None:
        rank_class, info = run.class_of(call.rank), run.ranks[call.rank].info
        if asks(call, Compare):
            run.warn(f"{info} could not be compared with its peers: {failure.kind}: {failure.message}", remedies.SLOW)
            return self._then(run, rank_class, [])
        if not asks(call, TuneEngine) or engine_tuning.is_required(run):
            return None
        engine_tuning.give_up(run, rank_class, f"{info}: {failure.kind}: {failure.message}")
        return []

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        rank_class = run.class_of(rank)
        if engine_tuning.was_running(calls):
            engine_tuning.give_up(run, rank_class, f"{run.ranks[rank].info} died in it")
        if (ballot := rank_class.ballots.get(rank)) is not None:
            ballot.lose(rank)
        commands = super().lost(run, rank, calls)
        return commands + self._then(run, rank_class, commands)

    def joined(self, run: Run, rank: int) -> Commands:
        rank_class = run.class_of(rank)
        commands = super().joined(run, rank) + consensus.vote(run, rank_class, rank)
        return commands + self._then(run, rank_class, commands)

    def is_complete(self, run: Run) -> bool:
        return super().is_complete(run) and not any(self._owes(run, rank_class) for rank_class in run.classes.values())

    def _owes(self, run: Run, rank_class: ClassState) -> bool:
        is_voting = bool(rank_class.ballots) and not consensus.is_settled(rank_class)
        return is_voting or peers.is_owed(run, rank_class) or engine_tuning.is_owed(run, rank_class)

    def _then(self, run: Run, rank_class: ClassState, commands: Commands) -> Commands:
        """Return the next commands once all tasks are dealt: ballots, the shared task, then the leader's engine
        tuning."""
        if any(run.class_of(command.rank) is rank_class for command in commands) or peers.is_comparing(run, rank_class):
            return []
        return self._maybe_vote(run, rank_class) or peers.compare(run, rank_class) or engine_tuning.ask(run, rank_class)

    def _maybe_vote(self, run: Run, rank_class: ClassState) -> Commands:
        """Open the ballots once every task has a short list."""
        tuned_now = rank_class.pool is not None and rank_class.pool.is_done and rank_class.measured > 0
        if rank_class.strategy != "consensus" or not tuned_now:
            return []
        if rank_class.ballots:
            return []
        return consensus.open_ballots(run, rank_class)


class Guarding(PoolPhase):
    """Re-measures every tuned winner against the default tactic."""

    phase = Phase.GUARDING

    def tasks(self, run: Run, rank_class: ClassState) -> list[PoolTask]:
        if not rank_class.needs_guard:
            return []
        begun = rank_class.verdicts.keys() | rank_class.confirmations.of_task.keys()
        return [task for task in rank_class.tuned_tasks() if task.task_id not in begun]

    def question(self, rank_class: ClassState, task_id: str, *, packs: bool) -> Question:
        return Guard(
            task_id,
            without_quarantined(rank_class.results[task_id], rank_class.quarantine),
            rank_class.quarantine,
            packs,
        )

    def keep(self, run: Run, rank_class: ClassState, rank: int, value: Answer) -> None:
        assert isinstance(value, Guarded), "a task was guarded"
        judges.judged(run, rank_class, rank, value)

    def enter(self, run: Run) -> Commands:
        for rank_class in run.classes.values():
            judges.resume(run, rank_class)
        return super().enter(run)

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        rank_class = run.class_of(call.rank)
        if isinstance(value, Guarded) and rank_class.confirmations.end(call.rank):
            self.keep(run, rank_class, call.rank, value)
            commands = self._feed(run, rank_class, call.rank)
        else:
            commands = super().returned(run, call, value)
        return commands + self._wake(run, rank_class)

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        run.class_of(rank).confirmations.lose(rank, run.ranks[rank].suspect)
        return super().lost(run, rank, calls)

    def joined(self, run: Run, rank: int) -> Commands:
        # Before the death is assessed, which may close the task.
        run.class_of(rank).confirmations.release(rank)
        return super().joined(run, rank)

    def is_complete(self, run: Run) -> bool:
        is_confirmed = not any(rank_class.confirmations.of_task for rank_class in run.classes.values())
        return super().is_complete(run) and is_confirmed

    def num_waiting(self, rank_class: ClassState) -> int:
        return super().num_waiting(rank_class) + rank_class.confirmations.num_waiting

    def _feed(self, run: Run, rank_class: ClassState, rank: int) -> Commands:
        pool, confirmations = rank_class.pool, rank_class.confirmations
        is_busy = pool is None or pool.num_running(rank) or confirmations.is_judging(rank)
        if is_busy or not self.works(run, rank_class, rank):
            return []
        return judges.ask(run, rank_class, rank) or super()._feed(run, rank_class, rank)

    def _wake(self, run: Run, rank_class: ClassState) -> Commands:
        """Give idle ranks the tactics that wait for a further judge."""
        pool, confirmations = rank_class.pool, rank_class.confirmations
        if pool is None or not confirmations.num_waiting:
            return []
        # Not at every answer of a large class that is busy as a whole.
        if pool.num_in_flight + confirmations.num_judging >= len(rank_class.ranks):
            return []
        return self._feed_all(run, rank_class)
