"""TUNING and GUARDING: the phases in which devices measure.

Tasks are dealt from a pool, to the leader alone or to every rank of the class; a lost rank's task in flight goes back
to the pool.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ray_warmup.warmup.artifact.quarantine import spared
from ray_warmup.warmup.machine import consensus, engine_tuning, peers
from ray_warmup.warmup.machine.commands import Adopt, Call, Failure
from ray_warmup.warmup.machine.leadership import take_over
from ray_warmup.warmup.machine.logic import PhaseLogic
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.pool import PoolTask, TaskPool
from ray_warmup.warmup.machine.state import ClassState, Commands, Run
from ray_warmup.warmup.machine.suspects import judge

NOT_TUNED = {
    "oom": "no tactic fits into memory, not even after freeing caches (autotune.max_memory_bytes)",
    "no_valid_tactic": "no tactic ran",
}
"""Outcomes of a task that need a word; `collision` is told when the table is packed."""
AT_ONCE = 500
"""Tasks that are dealt in one step: the loop that steps the machine must not stand still for thousands of ranks."""


class PoolPhase(PhaseLogic):
    """Deals the tasks of every class until none is left."""

    method: str

    def tasks(self, run: Run, group: ClassState) -> list[PoolTask]:
        """What is to be done for a class."""
        raise NotImplementedError(f"{type(self).__name__} must name its tasks")

    def arguments(self, group: ClassState, task_id: str) -> dict[str, Any]:
        """What goes along with a task."""
        return {}

    def keep(self, run: Run, group: ClassState, value: dict[str, Any]) -> None:
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

    def returned(self, run: Run, call: Call, value: dict[str, Any]) -> Commands:
        if call.method != self.method or call.task_id is None:
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
        """Whether a rank measures: every live one, or the leader alone."""
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
        args = self.arguments(group, task_id)
        if group.quarantine:
            args["quarantine"] = list(group.quarantine)
        if rank == group.leader:
            args["packs"] = True
        return [run.call(rank, self.method, task=task_id, task_id=task_id, **args)]


class Tuning(PoolPhase):
    """Measures every task that no store and no earlier attempt has."""

    phase = Phase.TUNING
    method = "tune"

    def tasks(self, run: Run, group: ClassState) -> list[PoolTask]:
        if group.is_hit:
            return []
        return [task for task in group.tasks if task.task_id not in group.results]

    def keep(self, run: Run, group: ClassState, value: dict[str, Any]) -> None:
        group.results[value["task_id"]] = value
        group.measured += 1
        if (why := NOT_TUNED.get(value["outcome"])) is not None:
            run.warn(f"{value['task_id']} keeps the default tactic: {why}")

    def enter(self, run: Run) -> Commands:
        again = [c for g in run.classes.values() if g.ballots for c in consensus.resume(run, g)]
        dealt = super().enter(run) + again
        return dealt + [c for g in run.classes.values() for c in self._then(run, g, dealt)]

    def returned(self, run: Run, call: Call, value: dict[str, Any]) -> Commands:
        group = run.class_of(call.rank)
        if peers.was_comparing(group, [call]):
            peers.keep(group, call, value)
            commands = []
        elif call.method == consensus.METHOD:
            commands = consensus.voted(run, group, call, value)
        elif call.method == engine_tuning.METHOD:
            engine_tuning.keep(run, group, value)
            commands = []
        else:
            commands = super().returned(run, call, value)
        return commands + self._then(run, group, commands)

    def refused(self, run: Run, call: Call | Adopt, failure: Failure) -> Commands | None:
        group, info = run.class_of(call.rank), run.ranks[call.rank].info
        if peers.was_comparing(group, [call]):
            run.warn(f"{info} could not be compared with its peers: {failure.kind}: {failure.message}")
            return self._then(run, group, [])
        if not engine_tuning.was_running([call]) or engine_tuning.is_required(run):
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
        """Once nothing is left to deal: the ballots, or the shared task; then what the leader tunes with an engine."""
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
    method = "guard"

    def tasks(self, run: Run, group: ClassState) -> list[PoolTask]:
        if not group.needs_guard:
            return []
        tuned = {task_id for task_id, result in group.results.items() if result["outcome"] == "tuned"}
        return [t for t in group.tasks if t.task_id in tuned and t.task_id not in group.verdicts]

    def arguments(self, group: ClassState, task_id: str) -> dict[str, Any]:
        return {"result": spared(group.results[task_id], group.quarantine)}

    def keep(self, run: Run, group: ClassState, value: dict[str, Any]) -> None:
        group.verdicts[value["task_id"]] = value
