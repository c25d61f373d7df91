"""PUSHING, INSTALLING, LOADING and REPLAYING: one table, from the rank that packs it to every rank."""

from __future__ import annotations

from functools import partial

from ray_warmup.warmup import remedies
from ray_warmup.warmup.artifact.quarantine import verdict_without_quarantined, without_quarantined
from ray_warmup.warmup.machine.commands import Adopt, Call, Failure, asks
from ray_warmup.warmup.machine.naming import span
from ray_warmup.warmup.machine.phases.lookup import keeps_files
from ray_warmup.warmup.machine.phases.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.machine.steps.engine_warmups import give_up_after_death, warm
from ray_warmup.warmup.machine.steps.leadership import take_over
from ray_warmup.warmup.machine.steps.lineage import parent_of
from ray_warmup.warmup.messages.answers import Answer, Confirmed, Installed, Loaded, Packed, Replayed, Surveyed
from ray_warmup.warmup.messages.questions import Confirm, Install, Load, Pack, PackStored, Replay, Survey


class Pushing(PhaseLogic):
    """The leader packs, the coordinator takes the blobs over. A table that is everywhere already is not pushed."""

    phase = Phase.PUSHING

    def enter(self, run: Run) -> Commands:
        for rank_class in run.classes.values():
            drop_quarantined(rank_class)
        return run.each_class(partial(self._pack, run))

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        if not isinstance(value, Packed):
            return []
        rank_class = run.class_of(call.rank)
        rank_class.header = value.header
        if value.header is None:
            rank_class.packer, rank_class.has_nothing = None, True
            reason = "no tunable op"
            if rank_class.tasks:
                reason = f"none of {len(rank_class.tasks)} tasks has a valid tactic"
            run.warn(
                f"ranks {span(rank_class.ranks)}: nothing was tuned ({reason}); they serve default tactics",
                remedies.MEMORY,
            )
            return []
        for op in value.collisions:
            run.warn(
                f"op {op}: two winners share one file key; it keeps its default tactics",
                "autotune.skip_ops leaves it out",
            )
        for warning in value.warnings:
            run.warn(f"{run.ranks[call.rank].info}: {warning}", remedies.COMPILES)
        return [run.adopt(call.rank, rank_class, value.header)]

    def adopted(self, run: Run, adopt: Adopt) -> Commands:
        rank_class = run.classes[adopt.key]
        rank_class.adopted, rank_class.packer = True, None
        return []

    def lost(self, run: Run, rank: int, calls: tuple[Call | Adopt, ...]) -> Commands:
        rank_class = run.class_of(rank)
        take_over(run, rank_class, rank)
        if rank_class.packer != rank:
            return []
        rank_class.packer = None
        return self._pack(run, rank_class)

    def joined(self, run: Run, rank: int) -> Commands:
        return self._pack(run, run.class_of(rank))

    def _pack(self, run: Run, rank_class: ClassState) -> Commands:
        """Ask the leader to pack, or a rank beside the found table.

        None if that is under way or not needed.
        """
        if rank_class.adopted or rank_class.packer is not None or not needs_push(rank_class):
            return []
        if rank_class.is_hit and not rank_class.needs_guard:
            able = ranks_in_source_directory(run, rank_class)
            if not able:
                return []
            rank_class.packer = able[0]
            return [run.call(rank_class.packer, PackStored(renew=rank_class.needs_renewal))]
        if rank_class.leader not in run.alive(rank_class):
            return []
        rank_class.packer = rank_class.leader
        question = Pack(
            results=tuple(rank_class.results.values()),
            verdicts=tuple(rank_class.verdicts.values()),
            strategy=rank_class.strategy,
            guarded=run.config.guard.enabled,
            tuned=rank_class.engine_tuned or (),
            after=parent_of(rank_class),
        )
        return [run.call(rank_class.packer, question)]


def drop_quarantined(rank_class: ClassState) -> None:
    """Replace quarantined winners in results and verdicts, so that table and report agree."""
    banned = rank_class.quarantine
    if not banned:
        return
    # Verdicts first: each is judged by the result as it was measured.
    for task_id, verdict in rank_class.verdicts.items():
        rank_class.verdicts[task_id] = verdict_without_quarantined(verdict, rank_class.results[task_id], banned)
    for task_id, result in rank_class.results.items():
        rank_class.results[task_id] = without_quarantined(result, banned)


def needs_push(rank_class: ClassState) -> bool:
    """Return True if a table must be pushed: a new one, or a found one that other directories lack or that carries
    less."""
    if rank_class.is_hit and not rank_class.needs_guard:
        return bool(writers_to_update(rank_class))
    return not rank_class.has_nothing


def ranks_in_source_directory(run: Run, rank_class: ClassState) -> list[int]:
    """Live ranks that read the directory in which the table was found, the one that found it first."""
    source = rank_class.source
    assert source is not None, "asked for a found table only"
    state = run.ranks.get(source)
    if state is None or (writer := rank_class.writers.get(state.place)) is None:
        return []  # it left with its node, or is on another now: LOOKUP, to which the run goes back, finds another copy
    places = rank_class.places_of(writer)
    near = [rank for rank in run.alive(rank_class) if run.ranks[rank].place in places]
    return sorted(near, key=lambda rank: (rank != source, rank))


def writers_to_update(rank_class: ClassState) -> list[int]:
    """Writers whose directory does not hold the class's table as its newest, in the file that ranks load.

    All of them where something is compiled that what they hold does not carry.
    """
    writers = sorted(set(rank_class.writers.values()))
    return [rank for rank in writers if rank_class.needs_renewal or not _holds(rank_class, rank)]


def _holds(rank_class: ClassState, rank: int) -> bool:
    look = rank_class.lookups.get(rank)
    return look is not None and rank_class.header is not None and look.holds(rank_class.header)


class Installing(PhaseLogic):
    """One writer per directory publishes.

    A node whose disk fails loads from memory.

    Other nodes on the same directory then put what is compiled into their own caches, which are not in it.
    """

    phase = Phase.INSTALLING

    def enter(self, run: Run) -> Commands:
        return run.each_class(partial(self._install_class, run))

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        rank_class = run.class_of(call.rank)
        if isinstance(value, Installed | Surveyed):
            for warning in value.warnings:
                run.warn(f"{run.ranks[call.rank].info}: {warning}", remedies.COMPILES)
        if not isinstance(value, Installed):
            return []
        run.files += value.files
        rank_class.installed.append(value)
        if value.degraded is not None:
            rank_class.in_memory |= rank_class.places_of(call.rank)
            run.warn(f"{run.ranks[call.rank].info}: {value.degraded}; its ranks load from memory", remedies.WRITABLE)
            return []
        return [*run.ask_all(other_nodes_on_directory(run, rank_class, call.rank), Survey())]

    def refused(self, run: Run, call: Call | Adopt, failure: Failure) -> Commands | None:
        """A node that cannot put it into its own caches compiles for itself."""
        if not asks(call, Survey):
            return None
        run.warn(
            f"{run.ranks[call.rank].info}: {failure.kind}: {failure.message}; its node compiles for itself",
            remedies.COMPILES,
        )
        return []

    def joined(self, run: Run, rank: int) -> Commands:
        rank_class = run.class_of(rank)
        if rank in self._writers(run, rank_class):
            return self._install(run, rank_class, [rank])
        return []

    def _writers(self, run: Run, rank_class: ClassState) -> list[int]:
        if not keeps_files(run) or rank_class.digest is None or not rank_class.adopted:
            return []
        is_found = rank_class.is_hit and not rank_class.needs_guard
        if is_found or run.rewinds:
            return writers_to_update(rank_class)
        return sorted(set(rank_class.writers.values()))

    def _install_class(self, run: Run, rank_class: ClassState) -> Commands:
        return self._install(run, rank_class, self._writers(run, rank_class))

    def _install(self, run: Run, rank_class: ClassState, ranks: list[int]) -> Commands:
        if not ranks:
            return []
        assert rank_class.header is not None, "what is installed was packed"
        return [*run.ask_all(ranks, Install(rank_class.header))]


def other_nodes_on_directory(run: Run, rank_class: ClassState, writer: int) -> list[int]:
    """One live rank of every other node that shares this writer's directory."""
    nodes = {node for node, _ in rank_class.places_of(writer)}
    ranks_on = run.nodes_of(rank_class)
    chosen = []
    for node in sorted(nodes - {run.ranks[writer].info.node_id}):
        alive = next((rank for rank in ranks_on.get(node, ()) if run.ranks[rank].is_alive), None)
        if alive is not None:
            chosen.append(alive)
    return chosen


class Loading(PhaseLogic):
    """Every rank, the leader too: clear, load, count, look every task up, and give the digest back."""

    phase = Phase.LOADING

    def enter(self, run: Run) -> Commands:
        commands: Commands = []
        for rank in run.ranks:
            commands += load(run, rank)
        return commands

    def joined(self, run: Run, rank: int) -> Commands:
        return load(run, rank)


def load(run: Run, rank: int) -> Commands:
    """Return the call that loads a rank, from its node's file or from memory, or none if nothing was tuned."""
    rank_class = run.class_of(rank)
    if rank_class.header is None:
        return []
    if keeps_files(run) and run.ranks[rank].place not in rank_class.in_memory:
        return [run.call(rank, Load(rank_class.header.digest, None))]
    return [run.call(rank, Load(rank_class.header.digest, rank_class.header))]


class Replaying(PhaseLogic):
    """Every rank runs every loaded task once and what an engine warms, so that the first request builds nothing.

    At the end every rank is asked once more what it holds: one that was lost meanwhile, and not missed yet, must not
    be called ready.
    """

    phase = Phase.REPLAYING

    def enter(self, run: Run) -> Commands:
        for state in run.ranks.values():
            state.is_confirmed = False
        return [*run.ask_all(run.ranks, Replay())]

    def returned(self, run: Run, call: Call, value: Answer) -> Commands:
        match value:
            case Loaded():
                return [run.call(call.rank, Replay())]
            case Replayed():
                return [warm(run, call.rank)]
            case Confirmed():
                run.ranks[call.rank].is_confirmed = True
        return self._confirm(run)

    def joined(self, run: Run, rank: int) -> Commands:
        give_up_after_death(run, run.ranks[rank])
        run.ranks[rank].is_confirmed = False
        return load(run, rank) or [run.call(rank, Replay())]

    def is_complete(self, run: Run) -> bool:
        return super().is_complete(run) and all(state.is_confirmed for state in run.ranks.values())

    def _confirm(self, run: Run) -> Commands:
        """Once nothing else is under way."""
        if run.calls or not run.all_alive:
            return []
        unconfirmed = [rank for rank, state in run.ranks.items() if not state.is_confirmed]
        return [*run.ask_all(unconfirmed, Confirm())]
