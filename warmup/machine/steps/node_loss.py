"""A node is gone for good: its ranks leave the run, or wait for another node, and the rest goes back to LOOKUP.

Going back is how one rule serves every phase: what is finished is kept, so each phase finds only what the loss left
undone, on whichever nodes there are now. Calls in flight are awaited first; nothing that is measured is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Release, Replace, asks
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.machine.steps import recalling
from ray_warmup.warmup.machine.steps.leadership import take_over
from ray_warmup.warmup.messages.questions import Probe


def ranks_on(run: Run, node_id: str) -> list[int]:
    """The ranks of a node."""
    return [rank for rank, state in sorted(run.ranks.items()) if state.info.node_id == node_id]


def mark(run: Run, ranks: Sequence[int], now: float) -> dict[int, tuple[Call | Adopt, ...]]:
    """These ranks have no process any more. Returns what those that had one were asked for."""
    lost: dict[int, tuple[Call | Adopt, ...]] = {}
    for rank in ranks:
        state = run.ranks[rank]
        calls = tuple(run.calls_of.get(rank, {}).values())
        for call in calls:
            run.close(call.call_id, now)
        if state.is_alive:
            lost[rank] = calls
        state.is_alive = state.is_starting = False
        state.suspect = None  # what it ran last is written on a disk that is gone
    return lost


def leave(run: Run, ranks: Sequence[int]) -> Commands:
    """The run goes on without these ranks."""
    for rank in ranks:
        run.ranks[rank].error = f"its node was lost in phase {run.phase}"
        rank_class = None
        if run.classes:
            rank_class = run.class_of(rank)
        run.remove(rank)
        if rank_class is not None and rank_class.ranks:
            take_over(run, rank_class, rank)
    return [Release(rank) for rank in ranks]


def move(run: Run, ranks: Sequence[int]) -> Commands:
    """These ranks get a fresh process on another node."""
    commands: Commands = []
    for rank in ranks:
        state = run.ranks[rank]
        state.is_starting = state.is_moving = True
        state.restarts += 1
        state.excused += 1
        state.moves += 1
        commands.append(Replace(rank, f"node {state.info.node_id[:8]} was lost", state.restarts, elsewhere=True))
    return commands


@dataclass(slots=True)
class GoingBack:
    """Pending return to LOOKUP, and the commands allowed until then."""

    is_due: bool = False

    def is_draining(self, run: Run) -> bool:
        """The run goes back as soon as what is in flight is answered: nothing new is asked for meanwhile."""
        return self.is_due and run.all_alive

    def allowed(self, run: Run, commands: Commands) -> Commands:
        """Before the run goes back: no calls once it drains, and of a rank on a new node only what it is."""
        if not self.is_due:
            return commands
        is_draining = self.is_draining(run)
        allowed: Commands = []
        for command in commands:
            is_asked = isinstance(command, Call | Adopt)
            if not is_asked or not (is_draining or _asks_a_mover(run, command)):
                allowed.append(command)
        return allowed


def begin_again(run: Run) -> None:
    """Forget calls in flight and file locations, keeping finished work."""
    run.rewinds += 1
    for state in run.ranks.values():
        state.is_moving = False
    for rank_class in run.classes.values():
        rank_class.packer = rank_class.pool = None
        rank_class.lookups = {}
        rank_class.in_memory = set()
        if not rank_class.adopted and not rank_class.is_hit:
            rank_class.header, rank_class.has_nothing = None, False
        for rank, ballot in rank_class.ballots.items():
            ballot.lose(rank)


def keep_found(run: Run, rank_class: ClassState) -> None:
    """After a second LOOKUP: a class keeps the table that it had, from any copy that is left.

    Where none is left and nothing was pushed yet, the table is packed once more from its results, and what they lack
    is measured.
    """
    recalling.take_finished(rank_class)
    if not rank_class.is_hit or rank_class.adopted:
        return
    copies = [rank for rank, table in recalling.hits(rank_class).items() if table.digest == rank_class.digest]
    if copies:
        rank_class.source = min(copies, key=lambda rank: (rank != rank_class.source, rank))
        return
    rank_class.source = rank_class.header = None
    rank_class.needs_guard = run.config.guard.enabled


def _asks_a_mover(run: Run, command: Command) -> bool:
    """Return True if a command asks a moving rank for more than its probe."""
    return run.ranks[command.rank].is_moving and not asks(command, Probe)
